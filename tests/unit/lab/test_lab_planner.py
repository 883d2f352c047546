"""Plans: the fewest devices that meet an SLO, the highest sustainable rate, and SLOs that cannot be met."""

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


def ignore_progress(text: str) -> None:
    """Ignore the progress messages."""


def p99_s(load: Workload, policy: Policy, devices: int) -> float:
    return float(np.percentile(latencies_s(simulate(load, policy, COST, Fleet(devices))), 99))


def test_the_plan_meets_the_slo_and_one_device_fewer_does_not() -> None:
    load, slo = workload(500.0), Slo(0.1)
    plan = plan_devices(load, CHOICES, COST, slo, 64, ignore_progress)
    assert plan.best is not None
    assert p99_s(load, plan.best.policy, plan.best.devices) == pytest.approx(plan.best.latency_s)
    assert plan.best.latency_s <= 0.1
    assert plan.best.devices > 1
    assert all(p99_s(load, policy, plan.best.devices - 1) > 0.1 for policy in CHOICES)
    assert plan.best.latency_s == min(p99_s(load, policy, plan.best.devices) for policy in CHOICES)


def test_the_plan_for_an_unreachable_slo_has_the_best_reachable_latency() -> None:
    plan = plan_devices(workload(50.0), CHOICES, COST, Slo(0.010), 64, ignore_progress)
    assert plan.best is None
    assert plan.best_reachable_s == pytest.approx(0.005 + TOKENS * 0.001)


def test_if_too_few_devices_are_available_the_plan_has_the_nearest_latency_that_they_reach() -> None:
    load = workload(2000.0)
    plan = plan_devices(load, CHOICES, COST, Slo(0.05), 4, ignore_progress)
    assert plan.best is None
    assert plan.best_reachable_s < 0.05
    assert plan.nearest is not None
    assert plan.nearest.devices == 4
    assert plan.nearest.latency_s == pytest.approx(min(p99_s(load, policy, 4) for policy in CHOICES))


def test_devices_that_fall_behind_do_not_meet_an_slo_longer_than_the_run() -> None:
    load = workload(500.0)
    span_s = load.arrival_s[-1] - load.arrival_s[0]
    plan = plan_devices(load, CHOICES, COST, Slo(60.0), 64, ignore_progress)
    assert plan.best is not None
    outcome = simulate(load, plan.best.policy, COST, Fleet(plan.best.devices))
    assert sum(batch.end_s - batch.start_s for batch in outcome.batches) < 1.03 * plan.best.devices * span_s
    # Even with the backlog at the end of the run, every request would finish within a minute.
    behind = simulate(load, plan.best.policy, COST, Fleet(plan.best.devices - 1))
    assert max(latencies_s(behind)) < 60
    assert keeps_up(outcome)
    assert not keeps_up(behind)
    sustained = plan_rate(workload(10.0), CHOICES, COST, Slo(60.0), 2, ignore_progress)
    assert sustained.best is not None
    # A request of ten tokens in a full batch of 16 takes 10.3 ms of device time.
    assert sustained.best.rate_per_s < 1.1 * 2 / 0.0103


STEPS = DecodeCost(0.004, 2e-5, 1e-4, 0.0, 0.002)
TRIALS = StepTrials(STEPS, 0.001)
POLICIES = generation_policies(["static", "continuous", "chunked"], 50_000)
GOALS = [Slo(0.2, 0.99, "first_token"), Slo(0.03, 0.99, "gap")]


def answers(rate_per_s: float, count: int = 150) -> Workload:
    numbers = np.random.default_rng(7)
    prompts, outputs = numbers.integers(10, 400, count).tolist(), numbers.integers(5, 60, count).tolist()
    return Workload(draw_arrivals(PATTERNS["poisson"], rate_per_s, count, numbers), prompts, outputs)


def test_the_search_finds_the_fewest_devices_for_slos_of_first_tokens_and_gaps() -> None:
    load = answers(150.0)
    plan = find_devices(load, POLICIES, TRIALS, GOALS, 16, ignore_progress)
    assert plan.best is not None
    assert plan.best.devices > 1
    first_s, gap_s = plan.best.figures_s
    assert first_s <= 0.2
    assert gap_s <= 0.03
    outcome = TRIALS.run(load, plan.best.policy, plan.best.devices, None)
    assert np.percentile(figures_s(outcome, "first_token"), 99) == pytest.approx(first_s)
    assert summarise(outcome)["itl_ms"]["p99"] == pytest.approx(gap_s * 1e3, rel=0.05)
    for policy in POLICIES:
        fewer = TRIALS.run(load, policy, plan.best.devices - 1, None)
        shares = [np.percentile(figures_s(fewer, slo.of), 99) / slo.seconds for slo in GOALS]
        assert max(shares) > 1 or not keeps_up(fewer)
    assert [point.devices for point in plan.front] == sorted({point.devices for point in plan.front})


def test_the_highest_rate_of_generation_is_sustainable_and_a_rate_one_fifth_higher_is_not() -> None:
    load = answers(1.0)
    plan = find_rate(load, POLICIES, TRIALS, GOALS, 1, ignore_progress)
    assert plan.best is not None
    for share, meets in ((1.0, True), (1.2, False)):
        search = find_devices(load.at_rate(share * plan.best.rate_per_s), POLICIES, TRIALS, GOALS, 1, ignore_progress)
        assert (search.best is not None) is meets


def test_no_number_of_devices_reaches_a_gap_shorter_than_one_step() -> None:
    plan = find_devices(answers(5.0), POLICIES, TRIALS, [Slo(0.001, 0.99, "gap")], 16, ignore_progress)
    assert plan.best is plan.nearest is None
    assert plan.best_reachable_s == pytest.approx(0.00412)


def test_chunk_sizes_are_tried_only_for_chunked_prefill_and_one_sequence_only_for_strategy_none() -> None:
    tried = generation_policies(["none", "continuous", "chunked"], 1000)
    assert [policy.max_batch_size for policy in tried if policy.name == "none"] == [1]
    assert len({policy.prefill_chunk_tokens for policy in tried if policy.name == "chunked"}) == 4
    assert len(set(tried)) == len(tried)


def test_the_highest_rate_is_sustainable_and_a_rate_one_tenth_higher_is_not() -> None:
    load, slo = workload(10.0), Slo(0.1)
    plan = plan_rate(load, CHOICES, COST, slo, 2, ignore_progress)
    assert plan.best is not None
    rate = plan.best.rate_per_s
    assert p99_s(load.at_rate(rate), plan.best.policy, 2) <= 0.1
    assert all(p99_s(load.at_rate(1.1 * rate), policy, 2) > 0.1 for policy in CHOICES)


def test_the_pareto_front_contains_the_points_that_no_other_point_dominates() -> None:
    policy = CHOICES[0]
    points = [Point(devices, policy, 1.0, (latency_s,), latency_s / 0.1, meets) for devices, latency_s, meets in
              [(3, 0.05, True), (2, 0.09, True), (2, 0.08, True), (4, 0.06, True), (1, 0.01, False)]]  # fmt: skip
    assert [(point.devices, point.latency_s) for point in pareto(points)] == [(2, 0.08), (3, 0.05)]


def test_every_strategy_is_tried_with_every_setting_that_applies_to_it() -> None:
    tried = policies(["none", "packed"], 1000, 256)
    assert sum(policy.strategy == "none" for policy in tried) == 1
    assert (
        len({(policy.limits.max_batch_size, policy.max_wait_s) for policy in tried if policy.strategy == "packed"})
        == 25
    )


def test_an_slo_of_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="an SLO of 'joy': takes latency, first_token, gap"):
        Slo(1.0, 0.99, "joy")
    with pytest.raises(ValueError, match="takes a model that generates"):
        plan_devices(workload(50.0), CHOICES, COST, Slo(1.0, 0.99, "gap"), 4, ignore_progress)


@pytest.mark.parametrize(("seconds", "share"), [(0.0, 0.99), (float("nan"), 0.99), (1.0, 1.0), (1.0, 0.0)])
def test_an_invalid_slo_is_refused(seconds: float, share: float) -> None:
    with pytest.raises(ValueError, match="an SLO takes"):
        Slo(seconds, share)
