"""A function that a test can hold in the middle of a batch, and a gateway around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from windrow import InferenceConfig, InferenceGateway

#: A window that never ends in a test; a batch closes by its size.
LONG_WINDOW_MS = 60_000.0


class Device:
    """A function that records its batches. While it is held, a batch that has started does not finish."""

    def __init__(self, run: Callable[[list[Any]], Any] = list) -> None:
        self.batches: list[list[Any]] = []
        self._run = run
        self._free = threading.Event()
        self._free.set()
        self._started = threading.Event()

    def __call__(self, inputs: list[Any]) -> Any:
        self.batches.append(inputs)
        self._started.set()
        assert self._free.wait(30)
        return self._run(inputs)

    def hold(self) -> None:
        self._free.clear()
        self._started.clear()

    def release(self) -> None:
        self._free.set()

    async def wait_until_started(self) -> None:
        assert await asyncio.to_thread(self._started.wait, 30)


def play(
    story: Callable[[InferenceGateway], Awaitable[None]], backend: Any, config: InferenceConfig | None = None
) -> None:
    async def run() -> None:
        async with InferenceGateway(config, backend) as gateway:
            await story(gateway)

    asyncio.run(run())


async def send(gateway: InferenceGateway, *inputs: Any) -> list[asyncio.Task[Any]]:
    """Start one task per input, and let each wait for its result."""
    tasks = [asyncio.create_task(gateway.infer(one)) for one in inputs]
    await asyncio.sleep(0)
    return tasks
