"""The learned window: estimated run costs, replayed latencies, and the wait chosen from both."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.window_sweep import bursts, poisson, sweep
from windrow.scheduler.core.learned_window import FIRST_WAIT_S, MAX_WAIT_S, LearnedWindow, RunCost, mean_latency_s
from windrow.scheduler.core.window import Wait, WindowLimits, decide_window, take_count

LIMITS = WindowLimits(16, 4096, MAX_WAIT_S, is_learned=True)
GAPS_S = st.lists(st.floats(0, 0.1), min_size=1, max_size=60)


def fit(runs: list[tuple[int, float]]) -> tuple[float, float]:
    run_cost = RunCost()
    for cost, seconds in runs:
        run_cost = run_cost.observe(cost, seconds)
    return run_cost.fit()


def test_before_the_first_run_the_estimated_cost_is_zero() -> None:
    assert RunCost().fit() == (0.0, 0.0)


@given(st.floats(0, 0.1), st.floats(0, 0.001), st.lists(st.integers(1, 16_000), min_size=2, max_size=50, unique=True))
def test_a_linear_cost_is_estimated_correctly(fixed_s: float, cost_s: float, costs: list[int]) -> None:
    found_s, found_cost_s = fit([(cost, fixed_s + cost_s * cost) for cost in costs])
    for cost in costs:
        assert found_s + found_cost_s * cost == pytest.approx(fixed_s + cost_s * cost, abs=1e-6, rel=1e-3)


@given(st.lists(st.tuples(st.integers(1, 16_000), st.floats(0, 10)), min_size=1, max_size=50))
def test_no_estimate_is_negative(runs: list[tuple[int, float]]) -> None:
    fixed_s, cost_s = fit(runs)
    assert fixed_s >= -1e-9
    assert cost_s >= 0


def test_runs_of_equal_cost_count_as_fixed_time() -> None:
    assert fit([(10, 0.02)] * 5) == (pytest.approx(0.02), 0.0)


def test_the_estimate_follows_a_device_that_becomes_slower() -> None:
    costs = itertools.cycle([10, 100])
    before, after = [(next(costs), 0.01) for _ in range(500)], [(next(costs), 0.03) for _ in range(200)]
    assert sum(fit(before + after)) == pytest.approx(0.03, rel=0.05)


def decided_latencies_s(
    arrived_s: list[float], costs: list[int], limits: WindowLimits, fit: tuple[float, float]
) -> list[float]:
    """Return the latencies if `decide_window` and `take_count` decide, event by event."""
    latencies_s: list[float] = []
    now_s, arrived = arrived_s[0], 0
    while (first := len(latencies_s)) < len(costs):
        while arrived < len(costs) and arrived_s[arrived] <= now_s:
            arrived += 1
        if arrived == first:
            now_s = arrived_s[arrived]
            continue
        waiting = costs[first:arrived]
        decision = decide_window(now_s, arrived_s[first], len(waiting), sum(waiting), limits, None)
        if isinstance(decision, Wait):
            now_s = min([decision.until_s, *arrived_s[arrived : arrived + 1]])
            continue
        count = take_count(waiting, limits)
        now_s += fit[0] + fit[1] * sum(waiting[:count])
        latencies_s += [now_s - at_s for at_s in arrived_s[first : first + count]]
    return latencies_s


@given(
    GAPS_S,
    st.integers(1, 20),
    st.integers(1, 300),
    st.floats(0, 0.05),
    st.floats(0, 0.001),
    st.sampled_from([0.0, 0.001, 0.01, 0.05]),
    st.integers(0, 1000),
)
def test_the_replay_computes_the_mean_latency_of_the_actual_decisions(
    gaps_s: list[float], size: int, budget: int, fixed_s: float, cost_s: float, wait_s: float, seed: int
) -> None:
    # Whole microseconds: the two sums add in a different order, and a request may arrive exactly when a window closes.
    numbers = random.Random(seed)
    arrived = [float(round(at_s * 1e6)) for at_s in itertools.accumulate(gaps_s)]
    costs = [numbers.randint(1, 200) for _ in arrived]
    limits = WindowLimits(size, budget, float(round(wait_s * 1e6)))
    cost_line = (float(round(fixed_s * 1e6)), float(round(cost_s * 1e6)))
    latencies = decided_latencies_s(arrived, costs, limits, cost_line)
    assert mean_latency_s(arrived, costs, limits, cost_line, limits.max_wait_s) == pytest.approx(np.mean(latencies))


def observe(window: LearnedWindow, arrived_s: list[float], run_s: float) -> None:
    """Let ``window`` observe windows of the requests that arrive within 20 ms."""
    for _, group in itertools.groupby(arrived_s, key=lambda at_s: int(at_s / 0.020)):
        together = list(group)
        window.observe_arrivals(together, [50] * len(together))
        window.observe_run(together[-1], len(together), 50 * len(together), run_s)


def test_the_default_wait_is_used_before_the_first_observation() -> None:
    assert LearnedWindow(LIMITS).limits.max_wait_s == FIRST_WAIT_S


def test_no_wait_is_longer_than_the_limit() -> None:
    assert LearnedWindow(WindowLimits(16, 4096, 0.002)).limits.max_wait_s == 0.002
    window = LearnedWindow(WindowLimits(16, 4096, 0.003))
    observe(window, bursts(30.0, 1000, np.random.default_rng(1)), 0.050)
    assert 0 < window.limits.max_wait_s <= 0.003


def test_the_wait_covers_bursts_and_becomes_zero_when_requests_arrive_alone() -> None:
    window = LearnedWindow(LIMITS)
    observe(window, bursts(60.0, 3000, np.random.default_rng(1)), 0.020)
    assert 0.002 <= window.limits.max_wait_s <= 0.008  # a burst takes 4 ms
    observe(window, [1000 + at_s for at_s in poisson(5.0, 1000, np.random.default_rng(1))], 0.020)
    assert window.limits.max_wait_s == 0.0


def test_simultaneous_arrivals_and_runs_of_zero_seconds_do_not_change_the_wait() -> None:
    window = LearnedWindow(LIMITS)
    window.observe_arrivals([1.0] * 100, [1] * 100)
    window.observe_run(2.0, 100, 100, 0.0)
    assert window.limits.max_wait_s == FIRST_WAIT_S


def test_over_a_range_of_loads_the_learned_window_is_within_5_percent_of_the_best_fixed_one() -> None:
    points = list(sweep(6000, loads=(0.05, 0.5, 0.95), devices=("fixed", "tokens")))
    assert len(points) == 12
    assert {(point.traffic, point.device, point.load): point.regret for point in points if point.regret > 0.05} == {}
    # Neither the default nor a wait of zero achieves this at every load.
    assert max(point.default_s / point.best_s for point in points) > 1.04
    assert max(point.no_wait_s / point.best_s for point in points) > 1.1
