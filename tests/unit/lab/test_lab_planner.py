"""Plans: the fewest devices that meet an SLO, the highest rate that devices hold, and what cannot be met."""

import numpy as np
import pytest

from windrow.lab.costs.cost import CostModel, DecodeCost, PassCost
from windrow.lab.measure.figures import latencies_s, summarise
from windrow.lab.plan.planner import Point, Slo, find_devices, find_rate, pareto, plan_devices, plan_rate, policies
from windrow.lab.plan.trials import StepTrials, figures_s, generation_policies, keeps_up
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.outcome import Fleet
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.workload import PATTERNS, Workload, draw_arrivals
from windrow.scheduler.core.planning import BatchLimits

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


def test_more_devices_than_there_are_is_no_plan_and_the_nearest_that_these_come_is_told() -> None:
    made = workload(2000.0)
    plan = plan_devices(made, CHOICES, COST, Slo(0.05), 4, say)
    assert plan.best is None
    assert plan.best_reachable_s < 0.05
    assert plan.nearest is not None
    assert plan.nearest.devices == 4
    assert plan.nearest.latency_s == pytest.approx(min(p99_s(made, policy, 4) for policy in CHOICES))


def test_an_slo_that_is_longer_than_the_run_does_not_make_do_with_devices_that_fall_behind() -> None:
    made = workload(500.0)
    span_s = made.arrival_s[-1] - made.arrival_s[0]
    plan = plan_devices(made, CHOICES, COST, Slo(60.0), 64, say)
    assert plan.best is not None
    outcome = simulate(made, plan.best.policy, COST, Fleet(plan.best.devices))
    assert sum(one.end_s - one.start_s for one in outcome.batches) < 1.03 * plan.best.devices * span_s
    # With all that work in the queue at the end, everybody would still be within a minute.
    behind = simulate(made, plan.best.policy, COST, Fleet(plan.best.devices - 1))
    assert max(latencies_s(behind)) < 60
    assert keeps_up(outcome)
    assert not keeps_up(behind)
    held = plan_rate(workload(10.0), CHOICES, COST, Slo(60.0), 2, say)
    assert held.best is not None
    # A request of ten tokens in a full row of 16 takes 10.3 ms of a device.
    assert held.best.rate_per_s < 1.1 * 2 / 0.0103


STEPS = DecodeCost(0.004, 2e-5, 1e-4, 0.0, 0.002)
TRIALS = StepTrials(STEPS, 0.001)
POLICIES = generation_policies(["static", "continuous", "chunked"], 50_000)
GOALS = [Slo(0.2, 0.99, "first_token"), Slo(0.03, 0.99, "gap")]


def answers(rate_per_s: float, count: int = 150) -> Workload:
    numbers = np.random.default_rng(7)
    prompts, outputs = numbers.integers(10, 400, count).tolist(), numbers.integers(5, 60, count).tolist()
    return Workload(draw_arrivals(PATTERNS["poisson"], rate_per_s, count, numbers), prompts, outputs)


def test_the_fewest_devices_for_first_tokens_and_gaps_are_found_by_the_same_search() -> None:
    made = answers(150.0)
    plan = find_devices(made, POLICIES, TRIALS, GOALS, 16, say)
    assert plan.best is not None
    assert plan.best.devices > 1
    first_s, gap_s = plan.best.figures_s
    assert first_s <= 0.2
    assert gap_s <= 0.03
    outcome = TRIALS.run(made, plan.best.policy, plan.best.devices, None)
    assert np.percentile(figures_s(outcome, "first_token"), 99) == pytest.approx(first_s)
    assert summarise(outcome)["itl_ms"]["p99"] == pytest.approx(gap_s * 1e3, rel=0.05)
    for policy in POLICIES:
        fewer = TRIALS.run(made, policy, plan.best.devices - 1, None)
        shares = [np.percentile(figures_s(fewer, slo.of), 99) / slo.seconds for slo in GOALS]
        assert max(shares) > 1 or not keeps_up(fewer)
    assert [point.devices for point in plan.front] == sorted({point.devices for point in plan.front})


def test_the_highest_rate_of_generation_is_held_and_a_fifth_more_is_not() -> None:
    made = answers(1.0)
    plan = find_rate(made, POLICIES, TRIALS, GOALS, 1, say)
    assert plan.best is not None
    for share, meets in ((1.0, True), (1.2, False)):
        search = find_devices(made.at_rate(share * plan.best.rate_per_s), POLICIES, TRIALS, GOALS, 1, say)
        assert (search.best is not None) is meets


def test_a_gap_that_a_step_alone_exceeds_is_reachable_by_no_number_of_devices() -> None:
    plan = find_devices(answers(5.0), POLICIES, TRIALS, [Slo(0.001, 0.99, "gap")], 16, say)
    assert plan.best is plan.nearest is None
    assert plan.best_reachable_s == pytest.approx(0.00412)


def test_chunks_are_tried_where_prompts_are_read_in_pieces_and_one_sequence_with_none() -> None:
    made = generation_policies(["none", "continuous", "chunked"], 1000)
    assert [one.max_batch_size for one in made if one.name == "none"] == [1]
    assert len({one.prefill_chunk_tokens for one in made if one.name == "chunked"}) == 4
    assert len(set(made)) == len(made)


def test_the_highest_rate_is_held_and_a_tenth_more_is_not() -> None:
    made, slo = workload(10.0), Slo(0.1)
    plan = plan_rate(made, CHOICES, COST, slo, 2, say)
    assert plan.best is not None
    rate = plan.best.rate_per_s
    assert p99_s(made.at_rate(rate), plan.best.policy, 2) <= 0.1
    assert all(p99_s(made.at_rate(1.1 * rate), policy, 2) > 0.1 for policy in CHOICES)


def test_the_front_holds_what_no_other_choice_beats_in_devices_and_latency() -> None:
    policy = CHOICES[0]
    points = [Point(devices, policy, 1.0, (latency_s,), latency_s / 0.1, meets) for devices, latency_s, meets in
              [(3, 0.05, True), (2, 0.09, True), (2, 0.08, True), (4, 0.06, True), (1, 0.01, False)]]  # fmt: skip
    assert [(one.devices, one.latency_s) for one in pareto(points)] == [(2, 0.08), (3, 0.05)]


def test_every_strategy_is_tried_with_every_setting_that_means_something_to_it() -> None:
    made = policies(["none", "packed"], 1000, 256)
    assert sum(one.strategy == "none" for one in made) == 1
    assert len({(one.limits.max_batch_size, one.max_wait_s) for one in made if one.strategy == "packed"}) == 25


def test_an_slo_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="an SLO of 'joy': takes latency, first_token, gap"):
        Slo(1.0, 0.99, "joy")
    with pytest.raises(ValueError, match="takes a model that generates"):
        plan_devices(workload(50.0), CHOICES, COST, Slo(1.0, 0.99, "gap"), 4, say)


@pytest.mark.parametrize(("seconds", "share"), [(0.0, 0.99), (float("nan"), 0.99), (1.0, 1.0), (1.0, 0.0)])
def test_an_slo_that_means_nothing_is_refused(seconds: float, share: float) -> None:
    with pytest.raises(ValueError, match="an SLO takes"):
        Slo(seconds, share)
