"""Requests that may take long to prepare: a schema becomes a grammar in seconds where it is a large one and new."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from windrow.scheduler.queue import Request
from windrow.worker.batches.prepare import prepare_requests
from windrow.worker.process.progress import Stage
from windrow.worker.steps.step_model import StepModel


class SlowPrepare:
    """Prepares such requests one after the other, in a thread of its own, while those without go on."""

    def __init__(self, lane: StepModel) -> None:
        self._lane = lane
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._is_at_work = False
        self._is_over = False

    def take(self, requests: Sequence[Request]) -> list[Request]:
        """Take those that may take long; return the others."""
        slow = [request for request in requests if has_schema(request)]
        if not slow:
            return list(requests)
        with self._changed:
            self._waiting += slow
            self._changed.notify_all()
        taken = {id(request) for request in slow}
        return [request for request in requests if id(request) not in taken]

    def wait_for_room(self, timeout_s: float) -> tuple[int, tuple[str, ...]]:
        """What the engine has room for beside what it will get from here, and of which priorities.

        Waits while that is nothing; see `StepModel.wait_for_any_room`.
        """
        room, priorities = self._lane.wait_for_any_room(timeout_s)
        with self._changed:
            self._changed.wait_for(lambda: room > self._count(), timeout_s if room else 0)
            return max(0, room - self._count()), priorities

    def run(self, stage: Stage) -> None:
        """Prepare until `stop`."""
        while (request := self._next()) is not None:
            with stage:
                self._lane.add(*prepare_requests(self._lane.engine, [request], self._lane.leases))

    def stop(self) -> Mapping[str, str]:
        """Make `run` return after the one that it is at; return what is left (id -> token)."""
        with self._changed:
            self._is_over = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        return {request.id: request.token for request in left}

    def _next(self) -> Request | None:
        with self._changed:
            self._is_at_work = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            if not self._waiting:
                return None
            self._is_at_work = True
            return self._waiting.popleft()

    def _count(self) -> int:
        return len(self._waiting) + self._is_at_work


def has_schema(request: Request) -> bool:
    """Whether its answer is to meet one."""
    return "schema" in request.parameters
