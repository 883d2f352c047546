"""Plans: the fewest devices that meet an SLO, the highest rate that devices hold, and what cannot be met."""

import numpy as np
import pytest

from scheduler.core.planning import BatchLimits
from scheduler.lab.cost import CostModel, PassCost
from scheduler.lab.device import Policy
from scheduler.lab.measure import latencies_s
from scheduler.lab.planner import Point, Slo, pareto, plan_devices, plan_rate, policies
from scheduler.lab.simulation import Fleet, simulate
from scheduler.lab.workload import PATTERNS, Workload, draw_arrivals

COST = CostModel(PassCost(0.005, 0.001), PassCost(0.005, 0.001))
CHOICES = [Policy("packed", BatchLimits(size, 4096), wait_s) for size in (4, 16) for wait_s in (0.0, 0.005)]
TOKENS = 10


def workload(rate_per_s: float, count: int = 1500) -> Workload:
    return Workload(draw_arrivals(PATTERNS["poisson"], rate_per_s, count, np.random.default_rng(6)), [TOKENS] * count)


def say(text: str) -> None:
    """Progress is of no interest here."""


def p99_s(made: Workload, policy: Policy, devices: int) -> float:
    return float(np.percentile(latencies_s(simulate(made, policy, COST, Fleet(devices))), 99))


def test_the_plan_meets_the_slo_and_one_device_less_does_not() -> None:
    made, slo = workload(500.0), Slo(0.1)
    plan = plan_devices(made, CHOICES, COST, slo, 64, say)
    assert plan.best is not None
    assert p99_s(made, plan.best.policy, plan.best.devices) == pytest.approx(plan.best.latency_s)
    assert plan.best.latency_s <= 0.1
    assert plan.best.devices > 1
    assert all(p99_s(made, policy, plan.best.devices - 1) > 0.1 for policy in CHOICES)
    assert plan.best.latency_s == min(p99_s(made, policy, plan.best.devices) for policy in CHOICES)


def test_an_slo_that_no_number_of_devices_meets_says_what_is_the_best_reachable() -> None:
    plan = plan_devices(workload(50.0), CHOICES, COST, Slo(0.010), 64, say)
    assert plan.best is None
    assert plan.best_reachable_s == pytest.approx(0.005 + TOKENS * 0.001)


def test_more_devices_than_there_are_is_no_plan() -> None:
    plan = plan_devices(workload(2000.0), CHOICES, COST, Slo(0.05), 4, say)
    assert plan.best is None
    assert plan.best_reachable_s < 0.05


def test_the_highest_rate_is_held_and_a_tenth_more_is_not() -> None:
    made, slo = workload(10.0), Slo(0.1)
    plan = plan_rate(made, CHOICES, COST, slo, 2, say)
    assert plan.best is not None
    rate = plan.best.rate_per_s
    assert p99_s(made.at_rate(rate), plan.best.policy, 2) <= 0.1
    assert all(p99_s(made.at_rate(1.1 * rate), policy, 2) > 0.1 for policy in CHOICES)


def test_the_front_holds_what_no_other_choice_beats_in_devices_and_latency() -> None:
    policy = CHOICES[0]
    points = [Point(devices, policy, 1.0, latency_s, meets) for devices, latency_s, meets in
              [(3, 0.05, True), (2, 0.09, True), (2, 0.08, True), (4, 0.06, True), (1, 0.01, False)]]  # fmt: skip
    assert [(one.devices, one.latency_s) for one in pareto(points)] == [(2, 0.08), (3, 0.05)]


def test_every_strategy_is_tried_with_every_setting_that_means_something_to_it() -> None:
    made = policies(["none", "packed"], 1000, 256)
    assert sum(one.strategy == "none" for one in made) == 1
    assert len({(one.limits.max_batch_size, one.max_wait_s) for one in made if one.strategy == "packed"}) == 25


@pytest.mark.parametrize(("seconds", "share"), [(0.0, 0.99), (float("nan"), 0.99), (1.0, 1.0), (1.0, 0.0)])
def test_an_slo_that_means_nothing_is_refused(seconds: float, share: float) -> None:
    with pytest.raises(ValueError, match="an SLO takes"):
        Slo(seconds, share)
