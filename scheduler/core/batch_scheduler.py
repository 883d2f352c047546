"""`BatchScheduler`: when to claim requests of a model and how many, when a window closes, and how many it takes.

`BatchScheduler` has no clock, no threads and does no I/O. `windrow.worker.batches.batch_buffer` drives it from threads
and `windrow.lab.simulate.device` in virtual time. Of each waiting request it knows three numbers (time of the claim,
time of the submit, cost); the driver keeps the requests themselves in the same order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from windrow.scheduler.core.claim_ahead import Pace
from windrow.scheduler.core.learned_window import LearnedWindow
from windrow.scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count

#: How many batches of requests may wait or be in preparation while windows run for a short time; otherwise one.
BATCHES_AHEAD = 2
#: If batches reach ``max_batch_tokens`` before ``max_batch_size``: at most this many times the requests of such a batch
#: wait.
TOKEN_LIMITED_CLAIM = 1.5


class ClaimUpTo(NamedTuple):
    """The decision to claim now."""

    #: The largest number of requests to claim.
    size: int
    #: Number of requests expected to fill a batch, at most ``size``. A spare process leaves a smaller backlog
    #: to the first process of its device.
    fills_batch: int


class RunningWindow(NamedTuple):
    """The requests of the closed window that the device runs now, in one or more batches."""

    size: int
    cost: int
    started_s: float


class BatchScheduler:
    """Takes the decisions for one model on one device. Times are seconds on any one clock.

    A *run* is the time in which the device computes the requests of one closed window, from `take` to `end_run`.

    The requests that wait or are being claimed are at most ``max_batch_size``, and at most `TOKEN_LIMITED_CLAIM` times
    the number that reaches ``max_batch_tokens``, so that a worker claims little more than it runs next. While runs are
    short (`Pace.is_short`), both limits are `BATCHES_AHEAD` times higher, and several claims may be made at the same
    time.
    """

    def __init__(self, limits: WindowLimits) -> None:
        self._pace = Pace()
        #: How many requests like those of the last window reach ``max_batch_tokens``; infinite before the first window.
        self._fills_batch = math.inf
        #: Requests that claims in progress may bring.
        self._reserved = 0
        # One entry for each waiting request, in the order in which they run.
        self._claimed_s: list[float] = []
        self._arrived_s: list[float] = []
        self._costs: list[int] = []
        self._cost = 0
        self._opened_s = math.inf
        self._running: RunningWindow | None = None
        self.set_limits(limits, 0.0)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._costs)

    @property
    def max_wait_s(self) -> float:
        """The maximum time for which a window stays open at present, in seconds."""
        return self._window.max_wait_s

    @property
    def first_claimed_s(self) -> float:
        """The time at which the first waiting request was claimed."""
        return self._claimed_s[0]

    @property
    def is_running(self) -> bool:
        """Whether the device runs requests of this model."""
        return self._running is not None

    def set_limits(self, limits: WindowLimits, now_s: float) -> None:
        """Use other limits from now on, and forget the learned window and the rate of arrivals."""
        self._limits = limits
        self._max_claim = self._claim_limit()
        self._learned = LearnedWindow(limits) if limits.is_learned else None
        self._rate = JoinRate.unknown(limits.max_wait_s)
        #: Requests that arrived since `_observed_since_s`, while another one waited or ran.
        self._joined = 0
        #: Since when something has been waiting or running; None if nothing is.
        self._observed_since_s = now_s if self._costs else None

    @property
    def claim_room(self) -> int:
        """How many more requests may be claimed, whatever the device runs."""
        free = most = self._max_claim
        if self._pace.is_short:
            free *= BATCHES_AHEAD
        elif self._reserved:
            return 0  # one claim at a time is enough
        free -= len(self._costs) + self._reserved
        return most if free > most else free if free > 0 else 0

    def plan_claim(self, now_s: float, running: BatchScheduler | None) -> ClaimUpTo | Wait:
        """Decide whether to claim now. ``running`` is the scheduler of the model that the device runs, if any."""
        room = self.claim_room
        if not room:
            return Wait(math.inf)
        if running is not None:
            due_s = running.next_claim_s(self._pace.prepare_s)
            if now_s < due_s:
                return Wait(due_s)
        return ClaimUpTo(room, max(1, int(min(room, self._fills_batch))))

    def next_claim_s(self, prepare_s: float) -> float:
        """Return when to claim requests that need ``prepare_s``, so that they are prepared when the run ends."""
        if self._running is None:
            return -math.inf
        return self._running.started_s + self._pace.claim_after_s(self._running.cost, prepare_s)

    def reserve(self, count: int) -> None:
        """Record that a claim of up to ``count`` requests begins; `release` records its end."""
        self._reserved += count

    def release(self, count: int) -> None:
        """Record that a claim of up to ``count`` requests has ended, whatever it brought."""
        self._reserved -= count

    def add(self, claimed_s: float, arrived_s: Sequence[float], costs: Sequence[int], prepare_s: float) -> int:
        """Add the prepared requests of one claim, at least one, and return the position at which they wait.

        Requests wait in the order of their claims, so those of a claim that took longer to prepare are inserted before
        later ones. ``prepare_s`` is how long claiming and preparing took.
        """
        self._pace = self._pace.observe_preparation(prepare_s)
        if self._observed_since_s is None:  # the first request joins no other
            self._observed_since_s = claimed_s
            self._joined -= 1
        self._joined += len(costs)
        if self._learned is not None:
            self._learned.observe_arrivals(arrived_s, costs)
        position = len(self._costs)
        if position and self._claimed_s[-1] > claimed_s:
            position = bisect_right(self._claimed_s, claimed_s)
        self._claimed_s[position:position] = [claimed_s] * len(costs)
        self._arrived_s[position:position] = arrived_s
        self._costs[position:position] = costs
        self._cost += sum(costs)
        self._opened_s = min(self._opened_s, min(arrived_s))
        return position

    def decide(self, now_s: float) -> Close | Wait:
        """Decide whether the window closes now, if the device is idle and at least one request waits."""
        rate = self._rate_at(now_s) if self._learned is None else None
        return decide_window(now_s, self._opened_s, len(self._costs), self._cost, self._window, rate)

    def take(self, now_s: float) -> int:
        """Start a run at ``now_s``; return how many requests it takes from the front of the waiting ones."""
        count = take_count(self._costs, self._limits)
        cost = sum(self._costs[:count])
        del self._costs[:count], self._arrived_s[:count], self._claimed_s[:count]
        self._cost -= cost
        self._opened_s = min(self._arrived_s, default=math.inf)
        self._running = RunningWindow(count, cost, now_s)
        self._fills_batch = self._limits.max_batch_tokens * count / max(1, cost)
        self._max_claim = self._claim_limit()
        return count

    def end_run(self, now_s: float) -> None:
        """Learn from the run that ended at ``now_s``."""
        if self._running is None:
            return
        count, cost, started_s = self._running
        self._running = None
        self._pace = self._pace.observe_run(cost, now_s - started_s)
        if self._learned is not None:
            self._learned.observe_run(now_s, count, cost, now_s - started_s)
        self._rate = self._rate_at(now_s)
        self._joined = 0
        self._observed_since_s = now_s if self._costs else None

    def clear(self) -> None:
        """Forget all waiting requests."""
        for column in (self._claimed_s, self._arrived_s, self._costs):
            column.clear()
        self._cost, self._opened_s = 0, math.inf

    def _claim_limit(self) -> int:
        """The maximum number of requests of one claim."""
        return math.ceil(min(self._limits.max_batch_size, TOKEN_LIMITED_CLAIM * self._fills_batch))

    @property
    def _window(self) -> WindowLimits:
        return self._limits if self._learned is None else self._learned.limits

    def _rate_at(self, now_s: float) -> JoinRate:
        since_s = self._observed_since_s
        observed_s = 0.0 if since_s is None else max(0.0, now_s - since_s)
        return self._rate.observe(self._joined, observed_s, self._limits.max_wait_s)


def choose_window(schedulers: Mapping[str, BatchScheduler], now_s: float) -> tuple[str, Close] | Wait:
    """Choose the model that an idle device runs now, or until when it waits.

    If several windows close, the one whose first request was claimed first runs first. In the order of arrival, a model
    with a backlog would always precede the others.
    """
    due: dict[str, Close] = {}
    until_s = math.inf
    for model, scheduler in schedulers.items():
        if scheduler.waiting:
            decision = scheduler.decide(now_s)
            if isinstance(decision, Close):
                due[model] = decision
            else:
                until_s = min(until_s, decision.until_s)
    if not due:
        return Wait(until_s)
    first = min(due, key=lambda model: schedulers[model].first_claimed_s)
    return first, due[first]
