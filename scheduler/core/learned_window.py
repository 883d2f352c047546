"""``max_wait_ms = "auto"``: learn how long a window should stay open from past arrivals and the cost of past runs.

The most recent arrivals are replayed on a virtual device once for each candidate wait, and the wait with the lowest
mean latency is used. This assumes nothing about the traffic: Poisson arrivals and bursts each get the wait that would
have served them best.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from windrow.scheduler.core.window import WindowLimits

#: Longest candidate wait, in seconds.
MAX_WAIT_S = 0.050
#: The wait before anything is learned, in seconds: the default of ``max_wait_ms``.
FIRST_WAIT_S = 0.005
#: Candidate waits in seconds: zero, and 14 waits up to `MAX_WAIT_S`, each 1.5 times the one before.
WAITS_S = (0.0, *(MAX_WAIT_S / 1.5**step for step in range(13, -1, -1)))
#: Arrivals that are kept.
MEMORY = 1024
#: A replay covers the arrivals of this many windows, and at least this many requests.
REPLAYED_WINDOWS, MIN_REPLAYED = 64, 64
#: A new wait is chosen at most once in this many seconds, and once for this many arrivals.
CHOOSE_EVERY_S, CHOOSE_EVERY = 1.0, 32
#: Weight of the latest replay in the moving averages.
LATEST_WEIGHT = 0.25
#: Relative latency above the best that is accepted for a shorter wait.
TOLERANCE = 0.01
#: Factor by which the weight of a run decreases with each later run.
DECAY = 0.98


def window_limits(max_batch_size: int, max_batch_tokens: int, max_wait_s: float | None) -> WindowLimits:
    """Return what closes a window; ``max_wait_s`` is None if the wait is learned."""
    if max_wait_s is None:
        return WindowLimits(max_batch_size, max_batch_tokens, MAX_WAIT_S, is_learned=True)
    return WindowLimits(max_batch_size, max_batch_tokens, max_wait_s)


class RunCost(NamedTuple):
    """Seconds of a run as ``fixed_s + cost_s * cost``, by weighted least squares over past runs.

    Only sums are kept, so an observation costs a few additions. If all runs had the same cost, the slope is unknown and
    the whole time counts as fixed until a run differs.
    """

    #: Weighted sums over runs: of the weights, the costs, the seconds, the squared costs, and cost times seconds.
    weight: float = 0.0
    cost: float = 0.0
    seconds: float = 0.0
    cost_squared: float = 0.0
    cost_times_seconds: float = 0.0

    def observe(self, cost: int, seconds: float) -> RunCost:
        """Include a run of ``cost`` that took ``seconds``."""
        return RunCost(
            self.weight * DECAY + 1.0,
            self.cost * DECAY + cost,
            self.seconds * DECAY + seconds,
            self.cost_squared * DECAY + cost * cost,
            self.cost_times_seconds * DECAY + cost * seconds,
        )

    def fit(self) -> tuple[float, float]:
        """Return ``(fixed_s, cost_s)``, neither below 0; both are 0 before the first run."""
        if not self.weight:
            return 0.0, 0.0
        mean_cost, mean_s = self.cost / self.weight, self.seconds / self.weight
        variance = self.cost_squared / self.weight - mean_cost**2
        covariance = self.cost_times_seconds / self.weight - mean_cost * mean_s
        if variance <= 1e-6 * mean_cost**2:
            return mean_s, 0.0
        cost_s = min(max(0.0, covariance / variance), mean_s / mean_cost)
        return mean_s - cost_s * mean_cost, cost_s


def mean_latency_s(
    arrived_s: Sequence[float], costs: Sequence[int], limits: WindowLimits, fit: tuple[float, float], wait_s: float
) -> float:
    """Return the mean seconds from arrival to the end of the run if each window had stayed open for ``wait_s``.

    ``arrived_s`` is in ascending order, with ``costs`` beside it; ``fit`` comes from `RunCost.fit`. Windows close as in
    `windrow.scheduler.core.window.decide_window` and `windrow.scheduler.core.window.take_count`.
    """
    fixed_s, cost_s = fit
    sums = [0, *accumulate(costs)]
    count, first, free_s, sum_ended_s = len(arrived_s), 0, arrived_s[0], 0.0
    while first < count:
        # The request that closes the window by size, or by reaching the token limit.
        by_cost = bisect_left(sums, sums[first] + limits.max_batch_tokens, first + 1) - 1
        last = min(first + limits.max_batch_size - 1, by_cost)
        opened_s = arrived_s[first]
        close_s = min(opened_s + wait_s, arrived_s[last]) if last < count else opened_s + wait_s
        start_s = max(free_s, close_s)
        arrived = bisect_right(arrived_s, start_s, first)
        fitting = bisect_right(sums, sums[first] + limits.max_batch_tokens, first) - 1
        end = min(arrived, first + limits.max_batch_size, max(fitting, first + 1))
        free_s = start_s + fixed_s + cost_s * (sums[end] - sums[first])
        sum_ended_s += free_s * (end - first)
        first = end
    return (sum_ended_s - sum(arrived_s)) / count


class LearnedWindow:
    """The limits of one model's window, with a wait that is learned from observed arrivals and runs."""

    def __init__(self, limits: WindowLimits) -> None:
        """``limits.max_wait_s`` is the longest wait that may be chosen."""
        self._waits_s = [wait_s for wait_s in WAITS_S if wait_s < limits.max_wait_s] + [limits.max_wait_s]
        self.limits = replace(limits, max_wait_s=min(FIRST_WAIT_S, limits.max_wait_s))
        self._run_cost = RunCost()
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=MEMORY)
        self._new_arrivals = 0
        self._mean_count = 1.0
        self._chosen_s = float("-inf")
        #: For each wait, its latency divided by that of the best wait, averaged over replays.
        self._ratios: list[float] | None = None

    def observe_arrivals(self, arrived_s: Sequence[float], costs: Sequence[int]) -> None:
        """Include requests that arrived at ``arrived_s``, roughly in the order of time."""
        self._arrivals.extend(zip(arrived_s, costs, strict=True))
        self._new_arrivals += len(costs)

    def observe_run(self, now_s: float, count: int, cost: int, seconds: float) -> None:
        """Include a run of ``count`` requests that took ``seconds`` until ``now_s``; choose a wait if one is due."""
        self._run_cost = self._run_cost.observe(cost, seconds)
        self._mean_count += LATEST_WEIGHT * (count - self._mean_count)
        if self._new_arrivals >= CHOOSE_EVERY and now_s - self._chosen_s >= CHOOSE_EVERY_S:
            self._new_arrivals, self._chosen_s = 0, now_s
            self._choose()

    def _choose(self) -> None:
        count = max(MIN_REPLAYED, int(REPLAYED_WINDOWS * self._mean_count))
        latest = sorted(list(self._arrivals)[-count:])
        arrived_s, costs = [at_s for at_s, _ in latest], [cost for _, cost in latest]
        fit = self._run_cost.fit()
        means_s = [mean_latency_s(arrived_s, costs, self.limits, fit, wait_s) for wait_s in self._waits_s]
        best_s = min(means_s)
        if best_s <= 0:
            return
        ratios = [mean_s / best_s for mean_s in means_s]
        old = self._ratios or ratios
        self._ratios = [before + LATEST_WEIGHT * (now - before) for before, now in zip(old, ratios, strict=True)]
        accepted = min(self._ratios) * (1 + TOLERANCE)
        chosen = next(index for index, ratio in enumerate(self._ratios) if ratio <= accepted)
        self.limits = replace(self.limits, max_wait_s=self._waits_s[chosen])
