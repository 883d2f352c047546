"""When to claim the requests of the next window while the device is busy.

A late claim lets more urgent requests overtake, because claimed requests keep their place. An early claim keeps the
device busy, because claiming and preparing take time.
"""

from __future__ import annotations

from typing import NamedTuple

#: Windows that run for less than this leave no time to delay a claim, in seconds.
SHORT_RUN_S = 0.02
#: Time reserved on top of the measured preparation: thread wake-ups and one claim that finds nothing, in seconds.
MARGIN_S = 0.004
#: Weight of the latest observation in the moving averages.
LATEST_WEIGHT = 0.3
#: Longest time that a claim blocks in Redis while the queue is empty, in seconds.
CLAIM_BLOCK_S = 1.0


class Pace(NamedTuple):
    """How long windows run and take to prepare, as moving averages.

    Two estimates of a run compete: the average of the last runs, which is right while the device is not full, and the
    window's cost times the average time per unit of cost. The one with the smaller recent error is used.
    """

    #: Average seconds of a run; None before the first one.
    run_s: float | None = None
    #: Average seconds per unit of cost.
    cost_s: float = 0.0
    #: Average error of each of the two estimates, in seconds.
    run_error_s: float = 0.0
    cost_error_s: float = 0.0
    #: Average seconds from asking Redis for requests until they are prepared.
    prepare_s: float = 0.0

    def observe_run(self, cost: int, seconds: float) -> Pace:
        """Include a window of ``cost`` that ran for ``seconds``."""
        cost_s = seconds / max(1, cost)
        if self.run_s is None:
            return self._replace(run_s=seconds, cost_s=cost_s)
        return Pace(
            _average(self.run_s, seconds),
            _average(self.cost_s, cost_s),
            _average(self.run_error_s, abs(seconds - self.run_s)),
            _average(self.cost_error_s, abs(seconds - cost * self.cost_s)),
            self.prepare_s,
        )

    def observe_preparation(self, seconds: float) -> Pace:
        """Include a claim that took ``seconds`` until its requests were prepared."""
        return self._replace(prepare_s=_average(self.prepare_s, seconds))

    @property
    def is_short(self) -> bool:
        """Whether runs may end before the next window is prepared, or too soon for a delayed claim to pay."""
        return self.run_s is not None and self.run_s < max(SHORT_RUN_S, _lead_s(self.prepare_s))

    def claim_after_s(self, cost: int, prepare_s: float) -> float:
        """Seconds from the start of a window of ``cost`` until a claim is due that takes ``prepare_s`` to prepare."""
        if self.run_s is None:
            return 0.0
        by_run, by_cost = (self.run_error_s, self.run_s), (self.cost_error_s, cost * self.cost_s)
        error_s, expected_s = min(by_run, by_cost)
        if expected_s < SHORT_RUN_S:
            return 0.0
        return max(0.0, expected_s - _lead_s(prepare_s) - 2 * error_s)


def _lead_s(prepare_s: float) -> float:
    return 2 * prepare_s + MARGIN_S


def _average(average: float, latest: float) -> float:
    return average + LATEST_WEIGHT * (latest - average)
