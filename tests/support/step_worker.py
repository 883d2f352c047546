"""A worker loop in a thread of the test process, with a `WordEngine` or any other step engine."""

from __future__ import annotations

import threading
from typing import Any

from redis import Redis

from tests.support.word_engine import WordEngine
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.keys import queue_key
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.engines.base import StepEngine
from windrow.worker.process.stopping import GRACEFULLY
from windrow.worker.steps.step_model import StepModel


class StepWorker:
    """Serves ``model`` from `start` to `stop`. If it is gated, its engine runs only steps allowed by `allow_steps`."""

    def __init__(
        self,
        redis: Redis,
        model: str,
        *,
        size: int = 4,
        is_gated: bool = True,
        step_s: float = 0.0,
        engine: StepEngine | None = None,
    ) -> None:
        self._redis = redis
        self.gate = threading.Semaphore(0) if is_gated else None
        self.engine: Any = engine or WordEngine(model, size=size, gate=self.gate, step_s=step_s)
        self.queue = RedisQueue(redis, model)
        self.served = StepModel(redis, self.queue, self.engine, 60.0, "worker@test/0")
        self._stop = threading.Event()
        loop = BatchLoop({model: self.served}, lambda: GRACEFULLY * self._stop.is_set())
        self._thread = threading.Thread(target=loop.run)

    def allow_steps(self, steps: int) -> None:
        """Allow ``steps`` more steps, each as soon as a request runs."""
        assert self.gate is not None
        self.gate.release(steps)

    def start(self) -> StepWorker:
        """Start the thread."""
        self._thread.start()
        return self

    def request_stop(self) -> None:
        """Stop gracefully, as SIGTERM does."""
        self._stop.set()
        self._redis.lpush(queue_key(self.queue.model, "wake"), "1")  # end a claim that blocks

    def stop(self) -> None:
        """Stop gracefully, let the running requests finish, and wait for the thread."""
        self.request_stop()
        if self.gate is not None:
            self.allow_steps(100_000)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def __enter__(self) -> StepWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
