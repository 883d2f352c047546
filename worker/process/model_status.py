"""What one process reports to Redis about one model: heartbeats and observations."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.observations import Observations
from windrow.worker.engines.base import EngineBase
from windrow.worker.process.stopping import DRAINED

#: A worker without a heartbeat for this long is removed from the list of workers, in seconds.
FORGET_AFTER_S = 60.0


class ModelStatus:
    """Heartbeats and counters of one model in one process."""

    def __init__(self, queue: RedisQueue, engine: EngineBase, worker: str) -> None:
        self.queue = queue
        self.worker = worker
        #: Distinguishes this process from earlier processes of the same name.
        self.process_id = secrets.token_hex(3)
        self.observed = Observations()
        #: Result of the last reload; None if the model was never reloaded.
        self.reload_note: str | None = None
        #: `EngineBase.busy_s` at the last heartbeat, and `time.monotonic` then.
        self._last_busy = (engine.busy_s, time.monotonic())

    def heartbeat(
        self, engine: EngineBase, held: int, busy_s: float = 0.0, details: Mapping[str, Any] | None = None
    ) -> None:
        """Report that this worker serves the model, how many requests it holds, and for how long its loop is busy.

        ``details`` are fields that only one kind of model has. A worker that stops sends no farewell: its heartbeats
        end. Readers ignore unknown fields, so that workers of several versions can share a queue.
        """
        heartbeat = Heartbeat(
            **asdict(engine.info),
            **details or {},
            busy_s=round(busy_s, 1),
            held=held,
            drained=bool(DRAINED.value),
            reload_note=self.reload_note,
            device_busy_ratio=self._device_busy_ratio(engine.busy_s),
        )
        self.queue.heartbeat(self.worker, heartbeat, stale_s=FORGET_AFTER_S)

    def engine_replaced(self, engine: EngineBase) -> None:
        """Measure the device time of ``engine`` from now on."""
        self._last_busy = (engine.busy_s, time.monotonic())

    def _device_busy_ratio(self, busy_s: float) -> float:
        """Fraction (0 to 1) of the time since the last heartbeat in which the device worked for this model."""
        now_s = time.monotonic()
        (last_busy_s, last_s), self._last_busy = self._last_busy, (busy_s, now_s)
        # A batch is counted when it is collected, so one that began before the last heartbeat may exceed the interval.
        return round(min(1.0, (busy_s - last_busy_s) / max(1e-3, now_s - last_s)), 4)

    def store_observations(self) -> None:
        """Add the observations of this process to those of all workers; if Redis fails, keep them for the next call."""
        counts = self.observed.take_out()
        try:
            if counts:
                self.queue.observe(counts)
        except RedisError:
            self.observed.put_back(counts)
            raise


def milliseconds(seconds: float) -> float:
    """Convert a duration for metrics: at least 0, rounded to microseconds."""
    return round(max(0.0, seconds) * 1e3, 3)
