"""Capacity planning: finds the fewest devices for a workload, or the highest rate for devices, with the simulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from windrow.lab.costs.cost import CostModel
from windrow.lab.plan.trials import PassTrials, Seconds, Slo, Trials, figures_s, keeps_up, policies
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.outcome import GiveUp
from windrow.lab.simulate.workload import Workload

__all__ = ["Plan", "Point", "Slo", "find_devices", "find_rate", "pareto", "plan_devices", "plan_rate", "policies"]
#: For the Pareto front: device counts to try beyond the fewest, and how many of the best settings to try with each.
FRONT_DEVICES, FRONT_POLICIES = 4, 3
#: Relative precision of a rate.
RATE_STEP = 0.01
Say = Callable[[str], None]
#: Settings of one kind of model.
Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Point(Generic[Choice]):
    """One simulated choice of settings and device count."""

    devices: int
    policy: Choice
    rate_per_s: float
    #: The percentile of each SLO, in seconds; infinite if the run was given up.
    figures_s: tuple[float, ...]
    #: The largest percentile relative to its SLO.
    worst: float
    #: Whether all SLOs are met by devices that keep up with the load.
    meets: bool

    @property
    def latency_s(self) -> float:
        """The percentile of the first SLO, in seconds."""
        return self.figures_s[0]


@dataclass(slots=True)
class Plan(Generic[Choice]):
    """The result of a search, and all points that were simulated."""

    slos: tuple[Slo, ...]
    #: None if nothing meets the SLOs.
    best: Point[Choice] | None = None
    #: Pareto front: the points that no other point beats in both device count and latency.
    front: list[Point[Choice]] = field(default_factory=list)
    tried: list[Point[Choice]] = field(default_factory=list)
    #: The percentiles if every request ran alone on an idle device, in seconds; no plan is faster.
    reachable_s: tuple[float, ...] = ()
    #: If nothing meets the SLOs, the nearest point with the most devices; None if no number of devices could.
    nearest: Point[Choice] | None = None

    @property
    def best_reachable_s(self) -> float:
        """The unloaded percentile of the first SLO, in seconds."""
        return self.reachable_s[0]

    @property
    def is_reachable(self) -> bool:
        """Whether requests that run alone on an idle device meet the SLOs."""
        return all(figure_s <= slo.seconds for figure_s, slo in zip(self.reachable_s, self.slos, strict=True))


def plan_devices(
    workload: Workload, choices: Sequence[Policy], cost: CostModel, slo: Slo, most_devices: int, say: Say
) -> Plan[Policy]:
    """Run `find_devices` for a model that answers in one batch."""
    return find_devices(workload, choices, PassTrials(cost), [slo], most_devices, say)


def plan_rate(
    workload: Workload, choices: Sequence[Policy], cost: CostModel, slo: Slo, devices: int, say: Say
) -> Plan[Policy]:
    """Run `find_rate` for a model that answers in one batch."""
    return find_rate(workload, choices, PassTrials(cost), [slo], devices, say)


def find_devices(
    workload: Workload,
    choices: Sequence[Choice],
    trials: Trials[Choice],
    slos: Sequence[Slo],
    most_devices: int,
    say: Say,
) -> Plan[Choice]:
    """Find the fewest devices that meet all ``slos``, and the fastest settings with that number.

    Assumes that more devices are never slower, so that the number can be bisected.
    """
    search = _Search(choices, trials, slos)
    plan = search.begin(workload)
    if not plan.is_reachable:
        return plan
    enough = low = min(search.fewest_devices(workload), most_devices)
    while not search.any_meets(workload, enough):
        say(f"{enough} devices: not enough")
        low = enough + 1
        if enough == most_devices:
            say(f"looking for the best that {enough} devices can do")
            plan.nearest = search.nearest(workload, enough)
            return plan
        enough = min(2 * enough, most_devices)
    while low < enough:
        middle = (low + enough) // 2
        met = search.any_meets(workload, middle)
        say(f"{middle} devices: {'enough' if met else 'not enough'}")
        low, enough = (low, middle) if met else (middle + 1, enough)
    say(f"{enough} devices: comparing {len(choices)} settings")
    points = sorted((search.try_out(workload, one, enough) for one in choices), key=lambda point: point.worst)
    points = [point for point in points if point.meets]
    plan.best = points[0]
    for devices in range(enough + 1, min(enough + FRONT_DEVICES, most_devices) + 1):
        for point in points[:FRONT_POLICIES]:
            search.try_out(workload, point.policy, devices)
    plan.front = pareto(plan.tried)
    return plan


def find_rate(
    workload: Workload, choices: Sequence[Choice], trials: Trials[Choice], slos: Sequence[Slo], devices: int, say: Say
) -> Plan[Choice]:
    """Find the highest rate of the same traffic that ``devices`` serve within ``slos``, and the settings for it."""
    search = _Search(choices, trials, slos)
    plan = search.begin(workload)
    if not plan.is_reachable:
        return plan
    # A higher rate needs more device time than there is.
    highest = high = devices * len(workload) / search.least_work_s(workload)
    low = 0.0
    while high - low > RATE_STEP * high and high > RATE_STEP**2 * highest:
        middle = (low + high) / 2
        point = search.any_meets(workload.at_rate(middle), devices)
        say(f"{middle:.1f} requests/s: {'held' if point else 'too many'}")
        if point is None:
            high = middle
        else:
            low, plan.best = middle, point
    if plan.best is None:
        plan.nearest = search.nearest(workload.at_rate(high), devices)
        return plan
    for share in (0.25, 0.5, 0.75, 0.9):
        search.try_out(workload.at_rate(share * plan.best.rate_per_s), plan.best.policy, devices)
    return plan


def pareto(points: Iterable[Point[Choice]]) -> list[Point[Choice]]:
    """Return the points that no other beats in both device count and SLO ratio, fewest devices first."""
    front: list[Point[Choice]] = []
    for point in sorted(points, key=lambda one: (one.devices, one.worst)):
        if point.meets and (not front or point.worst < front[-1].worst):
            front.append(point)
    return front


class _Search(Generic[Choice]):
    """Simulates choices, keeps the results, and starts with the choices that were good before."""

    def __init__(self, choices: Sequence[Choice], trials: Trials[Choice], slos: Sequence[Slo]) -> None:
        if not choices or not slos:
            raise ValueError("takes at least one choice of settings, and one SLO")
        self._order, self._trials, self._slos = list(choices), trials, tuple(slos)
        self.plan: Plan[Choice] = Plan(self._slos)
        # A run is given up by the SLO that decides earliest.
        by_end = next((slo for slo in slos if slo.of == "latency"), None)
        by_first = next((slo for slo in slos if slo.of == "first_token"), None)
        told = by_first or by_end
        self._give_up = None if told is None else GiveUp(told.seconds, 1 - told.share, told is by_first)

    def begin(self, workload: Workload) -> Plan[Choice]:
        """Return the plan with the unloaded percentiles."""
        self.plan.reachable_s = tuple(
            min(_percentile(self._trials.alone_s(workload, one, slo.of), slo) for one in self._order)
            for slo in self._slos
        )
        return self.plan

    def least_work_s(self, workload: Workload) -> float:
        """Return a lower bound on device seconds over all choices."""
        return max(1e-9, min(self._trials.least_work_s(workload, one) for one in self._order))

    def fewest_devices(self, workload: Workload) -> int:
        """Return the device count to start the search with."""
        span_s = workload.arrival_s[-1] - workload.arrival_s[0]
        # Some of the work may happen after the last arrival, so the search starts at half of the bound.
        return max(1, math.ceil(self.least_work_s(workload) / span_s / 2)) if span_s > 0 else 1

    def any_meets(self, workload: Workload, devices: int) -> Point[Choice] | None:
        """Return the first choice that meets the SLOs with this number of devices."""
        for policy in list(self._order):
            point = self.try_out(workload, policy, devices)
            if point.meets:
                self._order.remove(policy)
                self._order.insert(0, policy)
                return point
        return None

    def nearest(self, workload: Workload, devices: int) -> Point[Choice]:
        """Return the choice that comes nearest to the SLOs; runs are not given up."""
        points = (self._simulated(workload, one, devices, None) for one in self._order)
        return min(points, key=lambda point: point.worst)

    def try_out(self, workload: Workload, policy: Choice, devices: int) -> Point[Choice]:
        """Simulate one choice; the run is given up as soon as it is certain to fail."""
        point = self._simulated(workload, policy, devices, self._give_up)
        self.plan.tried.append(point)
        return point

    def _simulated(self, workload: Workload, policy: Choice, devices: int, give_up: GiveUp | None) -> Point[Choice]:
        outcome = self._trials.run(workload, policy, devices, give_up)
        # The requests that a given-up run left out would be late as well.
        figures = tuple(
            math.inf if outcome.is_hopeless else _percentile(figures_s(outcome, slo.of), slo) for slo in self._slos
        )
        worst = max(figure_s / slo.seconds for figure_s, slo in zip(figures, self._slos, strict=True))
        return Point(devices, policy, workload.rate_per_s, figures, worst, worst <= 1 and keeps_up(outcome))


def _percentile(seconds: Seconds, slo: Slo) -> float:
    """Return the percentile; 0 without values, for example if all answers have one token and so no gap."""
    return float(np.percentile(seconds, 100 * slo.share)) if len(seconds) else 0.0
