"""Scene 3: questions to a small Llama, whose answers are shown as they are written."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from windrow.client.async_client import AsyncClient
from windrow.errors import ClientError
from windrow.scheduler.models.builtin import builtin_cache
from windrow.stack.supervisor import POLL_S, Interrupted, Interrupts

MODEL = "tiny-llama"
#: Answers of different lengths, so that short ones leave while long ones go on.
QUESTIONS = (
    "What is a windrow?",
    "What is a window?",
    "Why are batches fast?",
    "What is continuous batching?",
    "Can a request be lost?",
    "Tell me about the kitchen",
)
#: Between two questions, in seconds: later ones join those that are being answered.
ASK_EVERY_S = 0.05
PARAMETERS = {"max_tokens": 96}


@dataclass(slots=True)
class Written:
    """One answer, as far as it has been written."""

    question: str
    text: str = ""
    tokens: int = 0
    #: From the question to the first text, and to the end, in milliseconds.
    first_ms: float | None = None
    total_ms: float | None = None
    problem: str | None = None


async def play_streams(client: AsyncClient, answers: Sequence[Written], on_text: Callable[[], None]) -> None:
    """Ask one question after another and read all answers at once; ``on_text`` is called when one has grown."""

    async def read(place: int, answer: Written) -> None:
        await asyncio.sleep(place * ASK_EVERY_S)
        asked_s = time.perf_counter()
        question = {"messages": [{"role": "user", "content": answer.question}]}
        try:
            async for event in client.stream(MODEL, question, parameters=PARAMETERS):
                now_ms = (time.perf_counter() - asked_s) * 1e3
                if event.text:
                    answer.text += event.text
                    answer.first_ms = answer.first_ms or now_ms
                elif event.type == "restart":
                    answer.text = ""
                elif event.prediction is not None:
                    answer.total_ms = now_ms
                    answer.tokens = event.prediction.result()["usage"]["completion_tokens"]
                on_text()
        except ClientError as error:
            answer.problem = str(error)

    await asyncio.gather(*(read(place, answer) for place, answer in enumerate(answers)))


def make_model(interrupts: Interrupts, say: Callable[[str], None]) -> None:
    """Train the Llama where nobody has on this machine. Raises `Interrupted`.

    In a process of its own: this one has no use for torch. Where it fails, the worker tries again and says why.
    """
    if builtin_cache(MODEL).is_dir():
        return
    say("training a small Llama from a page of text, once on this machine: about a minute on two cores")
    with subprocess.Popen([sys.executable, "-m", "windrow.worker.tiny_llama"], stdout=subprocess.DEVNULL) as training:
        try:
            while training.poll() is None:
                if interrupts.count:
                    raise Interrupted
                time.sleep(POLL_S)
        finally:
            training.terminate()
