"""Scenes 1 and 2: which texts the clients send, and when."""

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
#: Time between two arrivals of scene 1, in seconds.
ARRIVAL_S = 0.02
#: Concurrent clients of scene 2; each sends its next request when it has received a result.
CLIENTS = 64
PARAMETERS = {"truncate": True}
ANSWER_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one client: a prediction or the reason why there is none, and the measured latency."""

    text: str
    prediction: Prediction | None
    problem: str | None
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """All results of one strategy, in the order of the texts."""

    strategy: str
    answers: Sequence[Answer]
    seconds: float


def model_of(strategy: str) -> str:
    """Return the name of the model with ``strategy``."""
    return f"minilm-{strategy}"


async def warm_up(client: AsyncClient, models: Sequence[str]) -> list[Answer]:
    """Send one request to each model, so that loading and first calls are not measured."""
    return [await ask(client, model, "Warm up.") for model in models]


async def play_arrivals(client: AsyncClient, texts: Sequence[str]) -> list[Answer]:
    """Run scene 1: clients that arrive `ARRIVAL_S` apart."""

    async def arrive(place: int, text: str) -> Answer:
        await asyncio.sleep(place * ARRIVAL_S)
        return await ask(client, WINDOW_MODEL, text)

    return await asyncio.gather(*(arrive(place, text) for place, text in enumerate(texts)))


async def play_strategy(client: AsyncClient, strategy: str, texts: Sequence[str], on_answer: Callable[[], None]) -> Run:
    """Run scene 2 for one strategy: `CLIENTS` concurrent clients send all ``texts``."""
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
    """Send one text and wait for its result; a failure is part of the answer."""
    started_s = time.perf_counter()
    prediction, problem = None, None
    try:
        prediction = await client.predict(model, text, parameters=PARAMETERS, wait_s=ANSWER_S)
        prediction.result()
    except ClientError as error:
        problem = str(error)
    return Answer(text, prediction, problem, (time.perf_counter() - started_s) * 1e3)
