"""How many devices a workload needs, or how much these hold, by search over the simulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.core.planning import BatchLimits
from scheduler.lab.cost import CostModel
from scheduler.lab.device import Policy
from scheduler.lab.measure import latencies_s
from scheduler.lab.simulation import Fleet, simulate
from scheduler.lab.workload import Workload

#: Settings that are tried with each strategy; None is the learnt wait.
BATCH_SIZES = (8, 16, 32, 64, 128)
MAX_WAITS_S: tuple[float | None, ...] = (0.0, 0.002, 0.005, 0.020, None)
#: Beyond the fewest devices, how many more are tried for the front, and with how many of the best settings.
FRONT_DEVICES, FRONT_POLICIES = 4, 3
#: A rate is found to this share of itself.
RATE_STEP = 0.01
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Slo:
    """``share`` of all requests take at most ``seconds``."""

    seconds: float
    share: float = 0.99

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf and 0 < self.share < 1):
            raise ValueError("an SLO takes a time above 0 and a share between 0 and 1")


@dataclass(frozen=True, slots=True)
class Point:
    """One simulated choice."""

    devices: int
    policy: Policy
    rate_per_s: float
    #: The SLO's percentile, in seconds; infinite where the run was given up.
    latency_s: float
    meets: bool


@dataclass(slots=True)
class Plan:
    """What was found, and everything that was tried."""

    slo: Slo
    #: None where nothing meets the SLO.
    best: Point | None = None
    #: Of what was tried, the choices that no other beats in both devices and latency.
    front: list[Point] = field(default_factory=list)
    tried: list[Point] = field(default_factory=list)
    #: The SLO's percentile when every request runs alone on a device that is idle, in seconds: no plan is faster.
    best_reachable_s: float = 0.0


def policies(strategies: Iterable[str], max_batch_tokens: int, longest_tokens: int) -> list[Policy]:
    """Every combination that is tried; waiting for company means nothing to ``none``."""
    return [
        Policy(strategy, BatchLimits(size, max_batch_tokens, static_length=longest_tokens), wait_s)
        for strategy in strategies
        for size in (BATCH_SIZES if strategy != "none" else BATCH_SIZES[:1])
        for wait_s in (MAX_WAITS_S if strategy != "none" else MAX_WAITS_S[:1])
    ]


def plan_devices(
    workload: Workload, choices: Sequence[Policy], cost: CostModel, slo: Slo, most_devices: int, say: Say
) -> Plan:
    """The fewest devices that meet ``slo``, and of the settings that do so with them, the fastest.

    More devices are taken never to be slower, so that the number can be bisected.
    """
    search = _Search(choices, cost, slo)
    plan = search.plan
    plan.best_reachable_s = _alone_s(workload, choices, cost, slo)
    if plan.best_reachable_s > slo.seconds:
        return plan
    enough = low = min(_fewest_devices(workload, choices, cost), most_devices)
    while not search.any_meets(workload, enough):
        say(f"{enough} devices: not enough")
        low = enough + 1
        if enough == most_devices:
            return plan
        enough = min(2 * enough, most_devices)
    while low < enough:
        middle = (low + enough) // 2
        met = search.any_meets(workload, middle)
        say(f"{middle} devices: {'enough' if met else 'not enough'}")
        low, enough = (low, middle) if met else (middle + 1, enough)
    say(f"{enough} devices: comparing {len(choices)} settings")
    points = sorted((search.try_out(workload, one, enough) for one in choices), key=lambda point: point.latency_s)
    plan.best = points[0]
    for devices in range(enough + 1, enough + 1 + FRONT_DEVICES):
        for point in points[:FRONT_POLICIES]:
            search.try_out(workload, point.policy, devices)
    plan.front = pareto(plan.tried)
    return plan


def plan_rate(workload: Workload, choices: Sequence[Policy], cost: CostModel, slo: Slo, devices: int, say: Say) -> Plan:
    """The highest rate of the same traffic that ``devices`` hold within ``slo``, and the settings that hold it."""
    search = _Search(choices, cost, slo)
    plan = search.plan
    plan.best_reachable_s = _alone_s(workload, choices, cost, slo)
    if plan.best_reachable_s > slo.seconds:
        return plan
    # Above this, more device time is asked for than there is.
    high = devices * len(workload) / min(_least_work_s(workload, one, cost) for one in choices)
    low = 0.0
    while high - low > RATE_STEP * high:
        middle = (low + high) / 2
        point = search.any_meets(workload.at_rate(middle), devices)
        say(f"{middle:.1f} requests/s: {'held' if point else 'too many'}")
        if point is None:
            high = middle
        else:
            low, plan.best = middle, point
        if high < 1e-6:
            break
    if plan.best is not None:
        for share in (0.25, 0.5, 0.75, 0.9):
            search.try_out(workload.at_rate(share * plan.best.rate_per_s), plan.best.policy, devices)
    return plan


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both devices and latency, fewest devices first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (one.devices, one.latency_s)):
        if point.meets and (not front or point.latency_s < front[-1].latency_s):
            front.append(point)
    return front


class _Search:
    """Tries choices, remembers all of them, and begins with what was good the last time."""

    def __init__(self, choices: Sequence[Policy], cost: CostModel, slo: Slo) -> None:
        if not choices:
            raise ValueError("takes at least one choice of settings")
        self._order, self._cost, self._slo = list(choices), cost, slo
        self.plan = Plan(slo)

    def any_meets(self, workload: Workload, devices: int) -> Point | None:
        """The first choice that meets the SLO with so many devices."""
        for policy in list(self._order):
            point = self.try_out(workload, policy, devices)
            if point.meets:
                self._order.remove(policy)
                self._order.insert(0, policy)
                return point
        return None

    def try_out(self, workload: Workload, policy: Policy, devices: int) -> Point:
        """Simulate one choice, as far as it takes to see that it fails."""
        slo = self._slo
        outcome = simulate(workload, policy, self._cost, Fleet(devices), (slo.seconds, 1 - slo.share))
        # Those that a hopeless run left out would be late as well.
        took_s = math.inf if outcome.is_hopeless else float(np.percentile(latencies_s(outcome), 100 * slo.share))
        point = Point(devices, policy, workload.rate_per_s, took_s, took_s <= slo.seconds)
        self.plan.tried.append(point)
        return point


def _alone_s(workload: Workload, choices: Sequence[Policy], cost: CostModel, slo: Slo) -> float:
    lengths = np.asarray(workload.tokens)
    lines = {one.strategy: cost.of_strategy(one.strategy) for one in choices}
    return min(
        float(np.percentile([line.seconds(length, 1, length) for length in lengths.tolist()], 100 * slo.share))
        for line in lines.values()
    )


def _least_work_s(workload: Workload, policy: Policy, cost: CostModel) -> float:
    """Device seconds that the workload takes in full passes without padding: no plan needs less."""
    line = cost.of_strategy(policy.strategy)
    passes = len(workload) / policy.limits.max_batch_size
    work_s = passes * line.pass_s + (sum(workload.tokens) * line.token_s + len(workload) * line.sequence_s) / line.lanes
    return max(work_s, 1e-9)


def _fewest_devices(workload: Workload, choices: Sequence[Policy], cost: CostModel) -> int:
    span_s = workload.arrival_s[-1] - workload.arrival_s[0]
    least_s = min(_least_work_s(workload, one, cost) for one in choices)
    # A little of the work may lie after the last arrival, so half of the bound is where the search begins.
    return max(1, math.ceil(least_s / span_s / 2)) if span_s > 0 else 1
