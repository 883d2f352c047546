"""The requests in a step engine: they join it, receive tokens, and leave it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from windrow.scheduler.queue import Request
from windrow.scheduler.stepping.claiming import PRIORITY_NUMBERS, plan_urgent_claim
from windrow.worker.engines.base import Delta, StepEngine, SupportsPreemption
from windrow.worker.leases.leases import Leases
from windrow.worker.steps.generation_metrics import GenerationMetrics
from windrow.worker.steps.publisher import Publisher

#: How often a full engine is asked for room, in seconds. A request that leaves wakes the waiting thread earlier.
ROOM_POLL_S = 0.02


class RunningRequests:
    """The requests in one engine, by the name under which the engine has them. Thread-safe."""

    def __init__(
        self,
        engine: StepEngine,
        leases: Leases,
        metrics: GenerationMetrics,
        publisher: Publisher,
        on_left: Callable[[int], None],
    ) -> None:
        self.engine = engine
        self._leases = leases
        self._metrics = metrics
        self._publisher = publisher
        self._on_left = on_left
        self._running: dict[str, Request] = {}
        #: Guards the requests; notified when one has left the engine.
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._running)

    def wait_for_room(self, timeout_s: float) -> tuple[int, tuple[str, ...]]:
        """Return how many requests may be claimed, and of which priorities (() for all).

        Waits up to ``timeout_s`` for a free place. If there is none, returns how many urgent requests the engine would
        admit by preempting others.
        """
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not (room := self.engine.room()) and time.monotonic() < end_s:
                self._changed.wait(ROOM_POLL_S)
        if room:
            return room, ()
        if isinstance(self.engine, SupportsPreemption):
            return plan_urgent_claim(self.engine.room_by_preemption)
        return 0, ()

    def wait_until_empty(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` until no request is in the engine."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout_s)

    def add(self, requests: Sequence[Request], failed: Sequence[Request] = ()) -> None:
        """Pass prepared requests to the engine, except those that were lost or cannot meet their deadline.

        The outcomes of ``failed`` requests are published without the engine.
        """
        lost = 0
        ended = [("", request) for request in failed]
        with self._changed:
            for request in requests:
                if not self._leases.holds(request.id, request.token):
                    lost += 1
                    continue
                late = self._metrics.refuse_late(request, self._leases.redis_now_s(), len(self._running))
                if late is not None:
                    ended.append(("", request.set_outcome(late)))
                else:
                    self._join(request)
        if ended:
            self._publisher.add((), (), ended)
        if lost:
            self._on_left(lost)

    def _join(self, request: Request) -> None:
        key = _engine_key(request.id, request.token)
        running, limit = len(self._running) + 1, self.engine.info.max_sequences
        request.added_s = request.last_token_s = time.monotonic()
        request.first_token_s = None
        request.concurrency, request.had_room = running, limit is None or running <= limit
        self._running[key] = request
        if request.is_followed:
            self._publisher.follow(key, request)
        priority = PRIORITY_NUMBERS.get(request.flow.rpartition(":")[2], PRIORITY_NUMBERS["normal"])
        self.engine.add(key, request.prepared, stream=request.is_followed, priority=priority)

    def collect(self, deltas: Sequence[Delta]) -> None:
        """Record the tokens of one step, and pass them on to be published; ignore requests no longer held."""
        now_s = time.monotonic()
        current: list[Delta] = []
        first_tokens: list[tuple[str, float]] = []
        finished: list[tuple[str, Request]] = []
        intervals_s: Counter[float] = Counter()
        with self._changed:
            concurrency = len(self._running)
            for delta in deltas:
                request = self._running.get(delta.id)
                if request is None:
                    continue
                current.append(delta)
                if delta.first:
                    first_tokens.append((delta.id, self._metrics.record_first_token(request, now_s)))
                elif delta.tokens and delta.index == 0:  # the other choices get their tokens in the same steps
                    intervals_s[(now_s - request.last_token_s) / delta.tokens] += delta.tokens
                    request.last_token_s = now_s
                if delta.outcome is not None:
                    del self._running[delta.id]
                    request.concurrency = max(request.concurrency, concurrency)
                    started_s = request.added_s + self._leases.redis_offset_s
                    self._metrics.record_outcome(request, delta.outcome, now_s, started_s)
                    finished.append((delta.id, request))
            self._metrics.record_intervals(intervals_s)
            self._publisher.add(current, first_tokens, finished)
            if finished:
                self._changed.notify_all()

    def lose(self, id: str, token: str) -> None:
        """Remove a request that was canceled, or whose lease was lost, from the engine."""
        key = _engine_key(id, token)
        with self._changed:
            self._leases.forget(id, token)
            if self._running.pop(key, None) is None:
                return  # it has not joined yet, or has finished; it is counted there
            self.engine.cancel(key)
            self._publisher.drop(key)
            self._changed.notify_all()
        self._on_left(1)

    def take_out(self, *, started: bool) -> dict[str, str]:
        """Remove the requests without a token from the engine, or all if ``started``; return ID -> attempt token."""
        with self._changed:
            leaving = {key: one for key, one in self._running.items() if started or one.first_token_s is None}
            for key in leaving:
                del self._running[key]
                self.engine.cancel(key)
                self._publisher.drop(key)
        return {request.id: request.token for request in leaving.values()}


def _engine_key(id: str, token: str) -> str:
    """Unique per attempt, because a request may be claimed again before the engine has dropped a lost attempt."""
    return f"{token}/{id}"
