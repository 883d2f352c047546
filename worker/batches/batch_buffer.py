"""The batch buffer: claimed and prepared requests of each model that wait for the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from windrow.scheduler.core.batch_scheduler import BatchScheduler, ClaimUpTo, choose_window
from windrow.scheduler.core.window import Wait, WindowLimits
from windrow.scheduler.queue import Request


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """The requests of one model that a closed window hands to the device."""

    model: str
    requests: list[Request]
    #: ``size``, ``tokens``, ``wait`` or ``idle``; see `windrow.scheduler.core.window.Close`.
    closed_by: str


@dataclass(slots=True)
class _ModelBuffer:
    """What waits for one model, and the scheduler that decides about it."""

    scheduler: BatchScheduler
    #: In the order in which the scheduler sees them.
    requests: list[Request] = field(default_factory=list)


class BatchBuffer:
    """Lets claim threads add requests and one device thread take them, as each model's `BatchScheduler` decides."""

    def __init__(self, limits: dict[str, WindowLimits], clock: Callable[[], float] = time.monotonic) -> None:
        self._models = {model: _ModelBuffer(BatchScheduler(limit)) for model, limit in limits.items()}
        self._schedulers = {model: buffer.scheduler for model, buffer in self._models.items()}
        self._clock = clock
        #: The scheduler of the model that the device runs.
        self._running: BatchScheduler | None = None
        self._closed = False
        # One lock with two conditions, so that a change wakes only the threads that it concerns: wake-ups are most of
        # what a lone request waits for.
        lock = threading.RLock()
        self._filled, self._room_made = threading.Condition(lock), threading.Condition(lock)

    def reserve(self, model: str, timeout_s: float) -> ClaimUpTo | None:
        """Return how many requests to claim, or None if none may be claimed within ``timeout_s``.

        `add` ends the claim.
        """
        scheduler = self._schedulers[model]
        with self._room_made:
            end_s = self._clock() + timeout_s
            while not self._closed:
                now_s = self._clock()
                decision = scheduler.plan_claim(now_s, self._running)
                if isinstance(decision, ClaimUpTo):
                    scheduler.reserve(decision.size)
                    return decision
                if now_s >= end_s:
                    break
                self._wait(self._room_made, now_s, min(end_s, decision.until_s))
            return None

    def add(self, model: str, requests: Sequence[Request], reserved: int, prepare_s: float = 0.0) -> None:
        """Add the prepared ``requests`` of one claim of up to ``reserved``; an empty list only ends the claim.

        ``prepare_s`` is how long claiming and preparing took.
        """
        buffer = self._models[model]
        with self._filled:
            buffer.scheduler.release(reserved)
            if requests:
                arrived_s, costs = [one.arrived_s for one in requests], [one.prepared.tokens for one in requests]
                position = buffer.scheduler.add(requests[0].claimed_s, arrived_s, costs, prepare_s)
                buffer.requests[position:position] = requests
                self._filled.notify()
            self._wake_claimers(buffer.scheduler)

    def take(self) -> ClosedWindow | None:
        """Block until a window closes and return its requests; None after `close`.

        Only the device thread calls this. The call also ends the run of the previous window.
        """
        with self._filled:
            if self._running is not None:
                self._running.end_run(self._clock())
                self._running = None
                self._room_made.notify_all()  # no claim is too early while the device is idle
            while not self._closed:
                now_s = self._clock()
                decision = choose_window(self._schedulers, now_s)
                if not isinstance(decision, Wait):
                    model, close = decision
                    return ClosedWindow(model, self._take(self._models[model], now_s), close.closed_by)
                self._wait(self._filled, now_s, decision.until_s)
            return None

    def set_limits(self, model: str, limits: WindowLimits) -> None:
        """Use other limits for the windows of ``model`` from now on."""
        with self._filled:
            self._schedulers[model].set_limits(limits, self._clock())
            self._filled.notify()
            self._room_made.notify_all()

    def max_wait_s(self, model: str) -> float:
        """The longest that a window of ``model`` stays open now, in seconds."""
        return self._schedulers[model].max_wait_s

    def close(self) -> None:
        """Let `take` and `reserve` return None from now on; `empty` returns the requests that are left."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._room_made.notify_all()

    def empty(self) -> dict[str, list[Request]]:
        """Remove and return every waiting request, by model."""
        with self._filled:
            left = {model: buffer.requests for model, buffer in self._models.items() if buffer.requests}
            for buffer in self._models.values():
                buffer.requests = []
                buffer.scheduler.clear()
            self._room_made.notify_all()
            return left

    def _take(self, buffer: _ModelBuffer, now_s: float) -> list[Request]:
        count = buffer.scheduler.take(now_s)
        taken = buffer.requests[:count]
        del buffer.requests[:count]
        self._running = buffer.scheduler
        self._wake_claimers(buffer.scheduler)
        return taken

    def _wait(self, condition: threading.Condition, now_s: float, until_s: float) -> None:
        condition.wait(min(until_s - now_s, threading.TIMEOUT_MAX))

    def _wake_claimers(self, scheduler: BatchScheduler) -> None:
        if scheduler.claim_room:
            self._room_made.notify_all()
