"""The first two scenes: what the clients send, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from windrow.client.async_client import AsyncClient
from windrow.client.prediction import Prediction
from windrow.errors import ClientError

WINDOW_MODEL = "minilm-window"
STRATEGIES = ("none", "static", "dynamic", "bucket", "packed")
#: Between two arrivals of scene 1, in seconds.
ARRIVAL_S = 0.02
#: Closed-loop clients of scene 2: each sends its next request when it has its answer.
CLIENTS = 64
PARAMETERS = {"truncate": True}
ANSWER_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one client got: a prediction, or why there is none; and how long it took as the client saw it."""

    text: str
    prediction: Prediction | None
    problem: str | None
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """All answers of one strategy, in the order of the texts."""

    strategy: str
    answers: Sequence[Answer]
    seconds: float


def model_of(strategy: str) -> str:
    """The model that serves with ``strategy``."""
    return f"minilm-{strategy}"


async def warm_up(client: AsyncClient, models: Sequence[str]) -> list[Answer]:
    """One request to each model, so that loading and first calls are in no measurement."""
    return [await ask(client, model, "Warm up.") for model in models]


async def play_arrivals(client: AsyncClient, texts: Sequence[str]) -> list[Answer]:
    """Scene 1: clients arriving one after another, `ARRIVAL_S` apart."""

    async def arrive(place: int, text: str) -> Answer:
        await asyncio.sleep(place * ARRIVAL_S)
        return await ask(client, WINDOW_MODEL, text)

    return await asyncio.gather(*(arrive(place, text) for place, text in enumerate(texts)))


async def play_strategy(client: AsyncClient, strategy: str, texts: Sequence[str], on_answer: Callable[[], None]) -> Run:
    """Scene 2: all ``texts`` through one strategy, by `CLIENTS` clients that each wait for their answer."""
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(texts))

    async def loop() -> None:
        for place, text in waiting:
            answers[place] = await ask(client, model_of(strategy), text)
            on_answer()

    started_s = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(CLIENTS)))
    seconds = time.perf_counter() - started_s
    return Run(strategy, [answers[place] for place in range(len(texts))], seconds)


async def ask(client: AsyncClient, model: str, text: str) -> Answer:
    """Send one text and wait; a failure is part of the answer."""
    started_s = time.perf_counter()
    prediction, problem = None, None
    try:
        prediction = await client.predict(model, text, parameters=PARAMETERS, wait_s=ANSWER_S)
        prediction.result()
    except ClientError as error:
        problem = str(error)
    return Answer(text, prediction, problem, (time.perf_counter() - started_s) * 1e3)
