"""The batch buffer: claimed and prepared requests of each model that wait for the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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


class BatchBuffer:
    """The requests between the claim threads, which add them, and the device thread, which takes them.

    The `BatchScheduler` of each model decides when to claim and when a window closes; this class blocks until then.
    """

    def __init__(self, schedulers: Mapping[str, BatchScheduler], clock: Callable[[], float] = time.monotonic) -> None:
        self._schedulers = schedulers
        self._requests: dict[str, list[Request]] = {model: [] for model in schedulers}
        self._clock = clock
        #: The scheduler of the model that the device runs.
        self._running: BatchScheduler | None = None
        self._closed = False
        # One lock with two conditions, so that a change wakes only the threads that it concerns: most of the time that
        # a lone request spends here is the wake-up of threads.
        lock = threading.RLock()
        self._filled, self._room_made = threading.Condition(lock), threading.Condition(lock)

    def reserve(self, model: str, timeout_s: float) -> ClaimUpTo | None:
        """Block until it is time to claim and return how many requests; None after ``timeout_s`` or `close`.

        The caller then claims, prepares, and calls `add` with the result.
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
        """Add the prepared ``requests`` of a claim, and give back the ``reserved`` size that `reserve` returned.

        ``requests`` may be empty. ``prepare_s`` is how long claiming and preparing took.
        """
        scheduler = self._schedulers[model]
        with self._filled:
            scheduler.release(reserved)
            if requests:
                arrived_s = [request.arrived_s for request in requests]
                costs = [request.prepared.tokens for request in requests]
                position = scheduler.add(requests[0].claimed_s, arrived_s, costs, prepare_s)
                self._requests[model][position:position] = requests
                self._filled.notify()
            self._wake_claimers(scheduler)

    def take(self) -> ClosedWindow | None:
        """Block until a window closes and return its requests; None after `close`.

        Only the device thread calls this, after it has run the previous window.
        """
        with self._filled:
            if self._running is not None:
                self._running.end_run(self._clock())
                self._running = None
                self._room_made.notify_all()  # while the device is idle, claims need not wait
            while not self._closed:
                now_s = self._clock()
                decision = choose_window(self._schedulers, now_s)
                if not isinstance(decision, Wait):
                    model, close = decision
                    return ClosedWindow(model, self._take(model, now_s), close.closed_by)
                self._wait(self._filled, now_s, decision.until_s)
            return None

    def set_limits(self, model: str, limits: WindowLimits) -> None:
        """Use other limits for the windows of ``model`` from now on."""
        with self._filled:
            self._schedulers[model].set_limits(limits, self._clock())
            self._filled.notify()
            self._room_made.notify_all()

    def close(self) -> None:
        """Make `take` and `reserve` return None from now on; `empty` returns the requests that are left."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._room_made.notify_all()

    def empty(self) -> dict[str, list[Request]]:
        """Remove and return every waiting request, by model."""
        with self._filled:
            left = {model: requests for model, requests in self._requests.items() if requests}
            for model, scheduler in self._schedulers.items():
                self._requests[model] = []
                scheduler.clear()
            self._room_made.notify_all()
            return left

    def _take(self, model: str, now_s: float) -> list[Request]:
        scheduler, waiting = self._schedulers[model], self._requests[model]
        count = scheduler.take(now_s)
        taken = waiting[:count]
        del waiting[:count]
        self._running = scheduler
        self._wake_claimers(scheduler)
        return taken

    def _wait(self, condition: threading.Condition, now_s: float, until_s: float) -> None:
        condition.wait(min(until_s - now_s, threading.TIMEOUT_MAX))

    def _wake_claimers(self, scheduler: BatchScheduler) -> None:
        if scheduler.claim_room:
            self._room_made.notify_all()
