"""Scene 3: questions to a small Llama, whose answers are shown while they are generated."""

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
#: Questions with answers of different lengths, so that short answers finish during long ones.
QUESTIONS = (
    "What is a windrow?",
    "What is a window?",
    "Why are batches fast?",
    "What is continuous batching?",
    "Can a request be lost?",
    "Tell me about the kitchen",
)
#: Time between two questions, in seconds, so that later ones join a running batch.
ASK_EVERY_S = 0.05
PARAMETERS = {"max_tokens": 96}


@dataclass(slots=True)
class StreamedAnswer:
    """One answer, as far as it has been generated."""

    question: str
    text: str = ""
    tokens: int = 0
    #: Time from the question to the first text and to the end, in milliseconds.
    first_ms: float | None = None
    total_ms: float | None = None
    problem: str | None = None


async def play_streams(client: AsyncClient, answers: Sequence[StreamedAnswer], on_text: Callable[[], None]) -> None:
    """Ask all questions and read their answers concurrently; ``on_text`` is called after each event."""

    async def read(place: int, answer: StreamedAnswer) -> None:
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
    """Train the Llama if this machine does not have it. Raises `Interrupted`.

    The training runs in its own process, so that this one does not import torch. If it fails, the worker tries again
    and reports the reason.
    """
    if builtin_cache(MODEL).is_dir():
        return
    say("training a small Llama on a page of text, once on this machine: about a minute on two cores")
    with subprocess.Popen([sys.executable, "-m", "windrow.worker.tiny_llama"], stdout=subprocess.DEVNULL) as training:
        try:
            while training.poll() is None:
                if interrupts.count:
                    raise Interrupted
                time.sleep(POLL_S)
        finally:
            training.terminate()
