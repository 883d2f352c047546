"""The learnt wait: what a row costs, what waiting would have given, and that both lead to a good choice."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.window_sweep import LIMITS, Device, Policy, Request, bursts, poisson, simulate, sweep
from windrow.scheduler.core.learned_window import FIRST_WAIT_S, MAX_WAIT_S, LearnedWindow, WindowCost, mean_latency_s
from windrow.scheduler.core.window import WindowLimits

GAPS_S = st.lists(st.floats(0, 0.1), min_size=1, max_size=60)


def learnt(rows: list[tuple[int, float]]) -> tuple[float, float]:
    cost = WindowCost()
    for tokens, seconds in rows:
        cost = cost.ran(tokens, seconds)
    return cost.fit()


def test_before_the_first_row_nothing_costs_anything() -> None:
    assert WindowCost().fit() == (0.0, 0.0)


@given(st.floats(0, 0.1), st.floats(0, 0.001), st.lists(st.integers(1, 16_000), min_size=2, max_size=50, unique=True))
def test_the_cost_of_a_row_is_found_where_it_is_a_line(fixed_s: float, token_s: float, tokens: list[int]) -> None:
    found_s, found_token_s = learnt([(one, fixed_s + token_s * one) for one in tokens])
    for one in tokens:
        assert found_s + found_token_s * one == pytest.approx(fixed_s + token_s * one, abs=1e-6, rel=1e-3)


@given(st.lists(st.tuples(st.integers(1, 16_000), st.floats(0, 10)), min_size=1, max_size=50))
def test_no_cost_is_ever_below_zero(rows: list[tuple[int, float]]) -> None:
    fixed_s, token_s = learnt(rows)
    assert fixed_s >= -1e-9
    assert token_s >= 0


def test_rows_that_are_all_alike_are_taken_to_cost_the_same_whatever_their_size() -> None:
    assert learnt([(10, 0.02)] * 5) == (pytest.approx(0.02), 0.0)


def test_a_device_that_becomes_slower_is_noticed() -> None:
    sizes = itertools.cycle([10, 100])
    before, after = [(next(sizes), 0.01) for _ in range(500)], [(next(sizes), 0.03) for _ in range(200)]
    assert sum(learnt(before + after)) == pytest.approx(0.03, rel=0.05)


@given(
    GAPS_S,
    st.integers(1, 20),
    st.integers(1, 300),
    st.floats(0, 0.05),
    st.floats(0, 0.001),
    st.sampled_from([0.0, 0.001, 0.01, 0.05]),
    st.integers(0, 1000),
)
def test_the_replay_gives_the_latencies_that_the_window_itself_gives(
    gaps_s: list[float], size: int, budget: int, fixed_s: float, token_s: float, wait_s: float, seed: int
) -> None:
    # Whole microseconds: both add in another order, and a request may come at the very moment a window closes.
    numbers = random.Random(seed)
    micros = [round(at_s * 1e6) for at_s in itertools.accumulate(gaps_s)]
    requests = [Request(float(at), numbers.randint(1, 200)) for at in micros]
    limits = WindowLimits(size, budget, float(round(wait_s * 1e6)))
    device = Device(fixed_s=float(round(fixed_s * 1e6)), token_s=float(round(token_s * 1e6)))
    latencies = simulate(requests, Policy(limits), device, len(requests))
    at, tokens = [one.at_s for one in requests], [one.tokens for one in requests]
    replayed = mean_latency_s(at, tokens, limits, (device.fixed_s, device.token_s), limits.max_wait_s)
    assert replayed == pytest.approx(sum(latencies) / len(latencies))


def run(window: LearnedWindow, requests: list[Request], device: Device) -> None:
    """What a row's worth of traffic teaches, without a queue: rows of what came within 20 ms."""
    for _, group in itertools.groupby(requests, key=lambda one: int(one.at_s / 0.020)):
        row = list(group)
        for one in row:
            window.arrived(one.at_s, one.tokens)
        window.ran(row[-1].at_s, len(row), sum(one.tokens for one in row), device.row_s(row))


def test_until_something_was_learnt_the_default_window_is_used() -> None:
    assert LearnedWindow(replace(LIMITS, max_wait_s=MAX_WAIT_S)).limits.max_wait_s == FIRST_WAIT_S


def test_no_wait_is_longer_than_the_bound() -> None:
    assert LearnedWindow(replace(LIMITS, max_wait_s=0.002)).limits.max_wait_s == 0.002
    window = LearnedWindow(replace(LIMITS, max_wait_s=0.003))
    run(window, bursts(30.0, 1000, seed=1), Device(fixed_s=0.050))
    assert 0 < window.limits.max_wait_s <= 0.003


def test_bursts_are_waited_for_and_requests_that_come_alone_are_not_even_after_a_change() -> None:
    window = LearnedWindow(replace(LIMITS, max_wait_s=MAX_WAIT_S))
    device = Device(fixed_s=0.020)
    run(window, bursts(60.0, 3000, seed=1), device)
    assert 0.002 <= window.limits.max_wait_s <= 0.008  # they are spread over 4 ms
    later = [one._replace(at_s=one.at_s + 1000) for one in poisson(5.0, 1000, seed=1)]
    run(window, later, device)
    assert window.limits.max_wait_s == 0.0


def test_requests_that_all_came_at_once_on_a_device_that_costs_nothing_teach_nothing_and_break_nothing() -> None:
    window = LearnedWindow(replace(LIMITS, max_wait_s=MAX_WAIT_S))
    for _ in range(100):
        window.arrived(1.0, 1)
    window.ran(2.0, 100, 100, 0.0)
    assert window.limits.max_wait_s == FIRST_WAIT_S


def test_over_a_sweep_of_loads_the_learnt_wait_is_within_a_twentieth_of_the_best_fixed_one() -> None:
    points = sweep(6000, loads=(0.05, 0.5, 0.95), devices=("fixed", "tokens"))
    assert len(points) == 12
    assert {(one.traffic, one.device, one.load): one.regret for one in points if one.regret > 0.05} == {}
    # What is promised is not to be had from any fixed window, the default included.
    assert max(one.default_s / one.best_s for one in points) > 1.1
    assert max(one.no_wait_s / one.best_s for one in points) > 1.1
