"""Whether workers serve a model, and how long its requests wait; read from Redis at most once a second."""

from __future__ import annotations

import threading
import time

from redis import Redis

from windrow.errors import NoWorker
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, describe_failures
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import read_reasons

#: How long the values read from Redis are used, in seconds.
FRESH_S = 1.0
#: ``Retry-After`` for a model that workers could not load, in seconds. It is longer than the time in which clients
#: retry by themselves, so that they report the error.
LOAD_FAILED_RETRY_S = 120.0


class Availability:
    """The workers and the backlog of one model. Safe to share between threads; Redis errors pass through."""

    def __init__(self, redis: Redis, queue: RedisQueue, grace_s: float) -> None:
        """A model without a heartbeat for ``grace_s`` seconds counts as not served."""
        self._redis = redis
        self._queue = queue
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._read_at_s = float("-inf")
        self._load_failure: str | None = None
        self._is_served = True
        self._wait_s: float | None = None

    def refusal(self, *, waits_for_worker: bool) -> NoWorker | None:
        """Return the error if no worker serves the model, so that a submit is refused; None if one does.

        With ``waits_for_worker``, a submit is refused only if workers could not load the model.
        """
        self._refresh()
        if self._load_failure is not None:
            return NoWorker(self._load_failure, retry_after_s=LOAD_FAILED_RETRY_S)
        if self._is_served or waits_for_worker:
            return None
        return NoWorker(f"no worker has served model {self._queue.model!r} in the last {self._grace_s:g} s")

    def load_failure(self) -> str | None:
        """Return why workers could not load the model; None if one serves it or none has tried."""
        self._refresh()
        return self._load_failure

    def wait_s(self) -> float | None:
        """Return the measured seconds until a request submitted now would finish; None before the first batch."""
        self._refresh()
        return self._wait_s

    def _refresh(self) -> None:
        """Read Redis if the last values are old: in one thread, while the others use those values."""
        if time.monotonic() - self._read_at_s < FRESH_S:
            return
        is_locked = self._lock.acquire(blocking=False)
        if not is_locked and self._read_at_s > 0:
            return
        try:
            self._read()
            self._read_at_s = time.monotonic()
        finally:
            if is_locked:
                self._lock.release()

    def _read(self) -> None:
        workers = self._queue.workers
        is_served = bool(workers(within_s=min(self._grace_s, HEARD_WITHIN_S)))
        failures = {} if is_served else read_reasons(self._redis, self._queue.model)
        self._load_failure = describe_failures(self._queue.model, failures) if failures else None
        self._is_served = is_served or bool(workers(within_s=self._grace_s))
        self._wait_s = self._queue.depth().wait_s
