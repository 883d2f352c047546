"""A resident loop in a thread of the test's own process, with an engine that answers word by word, or any."""

from __future__ import annotations

import threading
from types import TracebackType
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
    """Serves ``model`` from `start` to `stop`; where it is gated, `let` lets its engine make so many steps."""

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
        self.lane = StepModel(redis, self.queue, self.engine, 60.0, "worker@test/0")
        self._stop = threading.Event()
        resident = BatchLoop({model: self.lane}, lambda: GRACEFULLY * self._stop.is_set())
        self._thread = threading.Thread(target=resident.run)

    def let(self, steps: int) -> None:
        """Make so many steps, each as soon as something runs."""
        assert self.gate is not None
        self.gate.release(steps)

    def start(self) -> StepWorker:
        """Begin to serve."""
        self._thread.start()
        return self

    def ask_to_stop(self) -> None:
        """As TERM does."""
        self._stop.set()
        self._redis.lpush(queue_key(self.queue.model, "wake"), "1")  # nobody has to wait for the end of a claim

    def stop(self) -> None:
        """Ask it, let what runs end, and wait for it."""
        self.ask_to_stop()
        if self.gate is not None:
            self.let(100_000)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def __enter__(self) -> StepWorker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
