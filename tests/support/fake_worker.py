"""A worker without a model: a thread that claims requests and finishes them with the outcomes of a function."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.scheduler.queue import RedisQueue


def echo(call: dict[str, Any]) -> Outcome:
    """Return the length of the input as an embedding."""
    return Done({"embedding": [float(len(call["input"]))]})


class FakeWorker:
    """Sends one heartbeat, then finishes all requests until the block ends.

    ``pause()`` stops it from claiming until ``resume()``.
    """

    def __init__(self, url: str, model: str, answer: Callable[[dict[str, Any]], Outcome] = echo) -> None:
        self._redis = Redis.from_url(url)
        self.queue = RedisQueue(self._redis, model)
        self._answer = answer
        self._runs = threading.Event()
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._runs.set()

    def beat(self) -> None:
        """Send a heartbeat."""
        self.queue.heartbeat("worker@test", Heartbeat(), stale_s=60)

    def pause(self) -> None:
        """Stop claiming."""
        self._runs.clear()

    def resume(self) -> None:
        """Continue to claim."""
        self._runs.set()

    def __enter__(self) -> FakeWorker:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._runs.set()
        self._thread.join()
        self._redis.close()

    def _work(self) -> None:
        while not self._stops.is_set():
            if not self._runs.wait(0.05):
                continue
            try:
                is_idle = not self._work_once()
            except RedisError:  # a test killed it
                is_idle = True
            if is_idle:
                self._stops.wait(0.005)

    def _work_once(self) -> int:
        claim = self.queue.claim(64, lease_s=30)
        endings = [item.set_outcome(self._answer(item.call()), claim.now_s, {"tokens": 3}) for item in claim.requests]
        self.queue.finish(endings, busy_s=0.001 * len(endings))
        return len(endings)
