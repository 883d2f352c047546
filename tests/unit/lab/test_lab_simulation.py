"""The simulator finishes every request exactly once, and its results agree with queueing theory."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windrow.lab.costs.cost import CostModel, PassCost
from windrow.lab.measure.figures import series, summarise
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.outcome import Failure, Fleet, GiveUp, Outcome
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.workload import PATTERNS, Flow, Workload, draw_arrivals
from windrow.scheduler.core.planning import PLANNERS, BatchLimits

COST = CostModel(PassCost(0.010, 0.001), PassCost(0.010, 0.001))
CORES = PassCost(0.010, 0.001, lanes=2, chore_s=0.003)


def policy(strategy: str = "packed", size: int = 4, tokens: int = 1000, wait_s: float | None = 0.005) -> Policy:
    return Policy(strategy, BatchLimits(size, tokens, static_length=32), wait_s)


def workload(*arrival_s: float, tokens: int = 10) -> Workload:
    return Workload(arrival_s, [tokens] * len(arrival_s))


ARRIVALS = st.lists(st.floats(0, 3), min_size=1, max_size=60).map(sorted)
FAILURES = st.lists(st.builds(Failure, st.floats(0, 4), st.integers(0, 1), st.floats(0, 1)), max_size=4).map(tuple)


@settings(deadline=None)
@given(ARRIVALS, st.sampled_from(sorted(PLANNERS)), st.integers(1, 8), st.floats(0, 0.1), FAILURES, st.data())
def test_every_request_finishes_once_and_a_device_runs_one_batch_at_a_time(
    arrival_s: list[float], strategy: str, size: int, wait_s: float, failures: tuple[Failure, ...], data: st.DataObject
) -> None:
    flows = (Flow("a"), Flow("b", "high"))
    count = len(arrival_s)
    tokens = data.draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    flow = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    requests = Workload(arrival_s, tokens, flow=flow, flows=flows)
    fleet = Fleet(2, failures, lease_s=0.5, max_attempts=2)
    outcome = simulate(requests, policy(strategy, size, wait_s=wait_s), COST, fleet)
    runs = Counter(request for batch in outcome.batches for request in batch.requests)
    assert set(runs.values()) <= {1}
    assert len(runs) + outcome.failed == count
    for batch in outcome.batches:
        assert all(batch.start_s >= arrival_s[request] for request in batch.requests)
        assert len(batch.requests) <= size
    for device in range(2):
        spans = sorted((batch.start_s, batch.end_s) for batch in outcome.batches if batch.device == device)
        assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(spans))
    if not failures:
        assert outcome.failed == outcome.redelivered == 0


@settings(deadline=None)
@given(ARRIVALS, st.sampled_from(sorted(PLANNERS)), st.integers(1, 8), st.floats(0, 0.1), FAILURES, st.data())
def test_on_cpu_cores_every_request_finishes_once_and_batches_finish_in_the_order_of_their_start(
    arrival_s: list[float], strategy: str, size: int, wait_s: float, failures: tuple[Failure, ...], data: st.DataObject
) -> None:
    count = len(arrival_s)
    tokens = data.draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    fleet = Fleet(2, failures, lease_s=0.5, max_attempts=2)
    requests = Workload(arrival_s, tokens)
    outcome = simulate(requests, policy(strategy, size, wait_s=wait_s), CostModel(CORES, CORES), fleet)
    runs = Counter(request for batch in outcome.batches for request in batch.requests)
    assert set(runs.values()) <= {1}
    assert len(runs) + outcome.failed == count
    for device in range(2):
        batches = [batch for batch in outcome.batches if batch.device == device]
        for before, after in pairwise(batches):
            assert before.start_s <= after.start_s
            assert before.end_s <= after.end_s + 1e-9
        # Two batches run at once while the results of a third, finished batch wait to be stored.
        for first, fourth in zip(batches, batches[3:], strict=False):
            assert first.end_s <= fourth.start_s + 1e-9


@given(ARRIVALS, st.integers(1, 8), st.floats(0, 0.1))
def test_one_device_serves_one_flow_in_the_order_of_arrival(arrival_s: list[float], size: int, wait_s: float) -> None:
    outcome = simulate(workload(*arrival_s), policy(size=size, wait_s=wait_s), COST)
    assert outcome.start_s == sorted(outcome.start_s)


def test_a_simulation_is_deterministic() -> None:
    requests = Workload(draw_arrivals(PATTERNS["bursts"], 50, 300, np.random.default_rng(3)), [20] * 300)
    first, second = (simulate(requests, policy(), COST, Fleet(2)) for _ in range(2))
    assert first.end_s == second.end_s


def test_the_first_request_waits_for_its_window_and_later_requests_share_the_next_batch() -> None:
    # A window of 5 ms, then 10 ms + 10 tokens of 1 ms each; the next three requests arrive meanwhile and share a batch.
    outcome = simulate(workload(0.0, 0.006, 0.010, 0.012), policy(), COST)
    assert outcome.start_s == pytest.approx([0.005, 0.025, 0.025, 0.025])
    assert outcome.end_s == pytest.approx([0.025, 0.065, 0.065, 0.065])
    assert outcome.closed_by == {"wait": 2}


def test_the_handover_delays_a_request_and_counts_in_its_latency() -> None:
    outcome = simulate(workload(1.0), policy(wait_s=0.0), replace(COST, handover_s=0.003))
    assert outcome.start_s == [pytest.approx(1.003)]
    assert summarise(outcome)["queue_ms"]["max"] == pytest.approx(3.0)


def test_a_full_window_closes_at_once() -> None:
    outcome = simulate(workload(0.0, 0.001, 0.001, 0.001), policy(wait_s=1.0), COST)
    assert outcome.start_s == [0.001] * 4
    assert outcome.closed_by == {"size": 1}


def test_a_learned_window_is_about_as_good_as_the_best_fixed_one() -> None:
    requests = Workload(draw_arrivals(PATTERNS["poisson"], 60, 4000, np.random.default_rng(3)), [10] * 4000)
    mean_ms = {
        wait_s: summarise(simulate(requests, policy(size=16, wait_s=wait_s), COST))["latency_ms"]["mean"]
        for wait_s in (None, 0.0, 0.005, 0.020, 0.050)
    }
    learned_ms = mean_ms.pop(None)
    assert learned_ms < 1.05 * min(mean_ms.values())


def test_a_backlog_runs_in_full_batches() -> None:
    outcome = simulate(workload(*[0.0] * 400), policy(), COST)
    assert {len(batch.requests) for batch in outcome.batches} == {4}
    assert summarise(outcome)["utilisation"] == [pytest.approx(1.0)]


def test_devices_share_a_backlog() -> None:
    alone, four = (simulate(workload(*[0.0] * 400), policy(), COST, Fleet(count)) for count in (1, 4))
    assert max(four.end_s) == pytest.approx(max(alone.end_s) / 4)


def test_the_mean_waiting_time_at_one_device_agrees_with_queueing_theory() -> None:
    # M/D/1 (Pollaczek-Khinchine): r D / (2 (1 - r)) for utilization r and fixed service time D.
    count, service_s, used = 20_000, 0.020, 0.7
    arrival_s = draw_arrivals(PATTERNS["poisson"], used / service_s, count, np.random.default_rng(11))
    outcome = simulate(workload(*arrival_s), policy("none", size=1, wait_s=0.0), COST)
    waited_s = np.array(outcome.start_s) - np.array(arrival_s)
    assert waited_s.mean() == pytest.approx(used * service_s / (2 * (1 - used)), rel=0.08)


def test_a_tenant_with_few_requests_does_not_wait_for_the_backlog_of_another() -> None:
    flows = (Flow("noisy"), Flow("quiet"))
    arrival_s = [0.0] * 200 + [0.5 + 0.2 * number for number in range(10)]
    requests = Workload(arrival_s, [10] * 210, flow=[0] * 200 + [1] * 10, flows=flows)
    report = summarise(simulate(requests, policy(wait_s=0.0), COST))
    assert report["flows"]["quiet:normal"]["latency_ms"]["max"] < 200  # three batches of 50 ms instead of fifty
    assert report["flows"]["noisy:normal"]["latency_ms"]["max"] > 2000


def test_high_priority_requests_run_first_without_starving_normal_priority() -> None:
    flows = (Flow(priority="normal"), Flow(priority="high"))
    requests = Workload([0.0] * 400, [10] * 400, flow=[0, 1] * 200, flows=flows)
    outcome = simulate(requests, policy(wait_s=0.0), COST)
    ends = np.array(outcome.end_s)
    assert np.median(ends[1::2]) < np.median(ends[::2])
    assert outcome.failed == 0


class TestDeaths:
    def test_requests_of_a_dead_worker_are_requeued_when_their_lease_expires(self) -> None:
        fleet = Fleet(1, (Failure(0.010, 0, 0.5),), lease_s=2.0)
        outcome = simulate(workload(0.0), policy(wait_s=0.0), COST, fleet)
        assert outcome.start_s == [pytest.approx(2.015, abs=0.01)]
        assert outcome.redelivered == 1
        assert outcome.lost_s == pytest.approx(0.010)

    def test_batches_that_finished_before_a_death_keep_their_results(self) -> None:
        requests = workload(0.0, 0.0)
        outcome = simulate(requests, policy("none", wait_s=0.0), COST, Fleet(1, (Failure(0.030, 0, 0.0),), lease_s=1.0))
        assert outcome.end_s[0] == pytest.approx(0.020)
        assert outcome.end_s[1] > 1.0
        assert outcome.redelivered == 1

    def test_a_request_fails_after_its_last_attempt(self) -> None:
        deaths = tuple(Failure(at_s, 0, 0.0) for at_s in (0.001, 1.010, 2.020))
        outcome = simulate(workload(0.0), policy(wait_s=0.0), COST, Fleet(1, deaths, lease_s=1.0, max_attempts=3))
        assert outcome.failed == 1
        assert math.isnan(outcome.end_s[0])

    def test_a_request_that_was_in_two_dead_batches_runs_alone(self) -> None:
        deaths = (Failure(0.001, 0, 0.0), Failure(1.010, 0, 0.0))
        outcome = simulate(workload(0.0, 0.0, 2.0, 2.1), policy(wait_s=0.0), COST, Fleet(1, deaths, lease_s=1.0))
        assert {batch.requests for batch in outcome.batches if {0, 1} & set(batch.requests)} == {(0,), (1,)}
        assert outcome.failed == 0

    def test_other_devices_continue_after_a_death(self) -> None:
        requests = workload(*[0.01 * number for number in range(100)])
        fleet = Fleet(2, (Failure(0.2, 0, 1e9),), lease_s=0.1)
        outcome = simulate(requests, policy(), COST, fleet)
        assert not np.isnan(outcome.end_s).any()
        assert {batch.device for batch in outcome.batches if batch.start_s > 0.2} == {1}

    def test_requests_without_a_device_are_reported_as_unserved(self) -> None:
        outcome = simulate(workload(0.0, 1.0), policy(), COST, Fleet(1, (Failure(0.5, 0, math.inf),)))
        assert summarise(outcome)["unserved"] == 1

    def test_a_failure_of_an_unknown_device_raises_an_error(self) -> None:
        with pytest.raises(ValueError, match="takes devices from 0 to 1"):
            Fleet(2, (Failure(1.0, 2, 1.0),))


class TestReport:
    def outcome(self) -> Outcome:
        return simulate(workload(0.0, 0.0, 1.0, 1.0), policy("static", size=2, wait_s=0.5), COST)

    def test_the_figures_agree_with_a_calculation_by_hand(self) -> None:
        report = summarise(self.outcome(), slo_s=0.1)
        # Two rectangles of 2 x 32 tokens: 10 + 64 ms each, from 0 to 1.074 s.
        assert report["latency_ms"]["p50"] == pytest.approx(74)
        assert report["seconds"] == pytest.approx(1.074)
        assert report["throughput_per_s"] == pytest.approx(4 / 1.074)
        assert report["goodput_per_s"] == report["throughput_per_s"]
        assert report["padding_ratio"] == pytest.approx(1 - 20 / 64)
        assert report["utilisation"] == [pytest.approx(0.148 / 1.074)]
        assert summarise(self.outcome(), slo_s=0.05)["within_slo"] == 0

    def test_the_series_add_up_to_the_totals(self) -> None:
        outcome = self.outcome()
        over_time = series(outcome, points=50)
        step_s = 1.074 / 50
        assert sum(over_time["arrivals_per_s"]) * step_s == pytest.approx(4)
        assert sum(over_time["served_per_s"]) * step_s == pytest.approx(4)
        assert sum(over_time["busy"]) * step_s == pytest.approx(0.148)
        assert over_time["waiting"][-1] == 0

    def test_batches_do_not_alias_with_the_steps_of_the_series(self) -> None:
        # Batches of 74 ms without a pause in steps of 50 ms: a third of the steps contain no end.
        outcome = simulate(workload(*[0.0] * 200), policy("static", size=2), COST)
        assert outcome.end_s[-1] == pytest.approx(7.4)
        over_time = series(outcome, points=148)
        assert over_time["served_per_s"] == pytest.approx([2 / 0.074] * 148)
        assert over_time["waiting"][0] == pytest.approx(198)
        nothing_ended = [math.isnan(value) for value in over_time["p99_ms"]]
        assert 40 < sum(nothing_ended) < 60

    def test_a_run_without_finished_requests_has_no_rates(self) -> None:
        lost = simulate(workload(0.0), policy(), COST, Fleet(1, (Failure(0.006, 0, 1.0),), max_attempts=1))
        report = summarise(lost, slo_s=1.0)
        assert (report["succeeded"], report["failed"]) == (0, 1)
        assert [report[rate] for rate in ("throughput_per_s", "tokens_per_s", "goodput_per_s")] == [None] * 3
        assert report["within_slo"] == 0

    def test_a_run_with_too_many_late_requests_is_stopped(self) -> None:
        requests = workload(*[0.0] * 4000)
        outcome = simulate(requests, policy(), COST, give_up=GiveUp(0.1, 0.01))
        assert outcome.is_hopeless
        assert len(outcome.batches) < 20
