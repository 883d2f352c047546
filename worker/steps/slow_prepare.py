"""Prepares requests with a JSON schema in a thread of their own: compiling a large new schema takes seconds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from windrow.scheduler.queue import Request
from windrow.worker.process.progress import Stage


class SlowPrepare:
    """Prepares requests with a schema one after another, while requests without one continue."""

    def __init__(self, prepare: Callable[[Sequence[Request]], None]) -> None:
        self._prepare = prepare
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._is_preparing = False
        self._is_stopped = False

    def take(self, requests: Sequence[Request]) -> list[Request]:
        """Queue the requests with a schema; return the others."""
        slow = [request for request in requests if has_schema(request)]
        if not slow:
            return list(requests)
        with self._changed:
            self._waiting += slow
            self._changed.notify_all()
        taken = {id(request) for request in slow}
        return [request for request in requests if id(request) not in taken]

    def wait_for_fewer(self, count: int, timeout_s: float) -> int:
        """Wait up to ``timeout_s`` until fewer than ``count`` requests are here; return how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: count > self._count(), timeout_s)
            return self._count()

    def run(self, stage: Stage) -> None:
        """Prepare requests until `stop` is called."""
        while (request := self._next()) is not None:
            with stage:
                self._prepare([request])

    def stop(self) -> Mapping[str, str]:
        """Make `run` return after its current request; return the unprepared ones (ID -> attempt token)."""
        with self._changed:
            self._is_stopped = True
            unprepared, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        return {request.id: request.token for request in unprepared}

    def _next(self) -> Request | None:
        with self._changed:
            self._is_preparing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._is_stopped)
            if not self._waiting:
                return None
            self._is_preparing = True
            return self._waiting.popleft()

    def _count(self) -> int:
        return len(self._waiting) + self._is_preparing


def has_schema(request: Request) -> bool:
    """Return whether the answer must match a schema."""
    return "schema" in request.parameters
