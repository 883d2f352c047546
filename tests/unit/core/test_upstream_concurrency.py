"""The concurrency limit of an upstream server finds its capacity and stays within its bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.upstream_concurrency import ConcurrencyLimit
from windrow.scheduler.core.upstream_retry import BACKOFF, retry_pause_s


def first_s(running: int, capacity: int) -> float:
    """Return the time to the first token of a server that runs ``capacity`` requests at once and queues the rest."""
    return 0.1 * math.ceil(running / capacity)


def learn(
    state: ConcurrencyLimit, capacity: int, answers: int, wanted: int = 10_000, start_s: float = 0.0
) -> list[ConcurrencyLimit]:
    """Return the state after each answer; answers are 1 s apart, so each request is sent after the last cut."""
    states = []
    for second in range(answers):
        running = min(wanted, state.allowed)
        state = state.answered(first_s(running, capacity), 100, running, start_s + second)
        states.append(state)
    return states


def average(states: list[ConcurrencyLimit]) -> float:
    return sum(state.allowed for state in states) / len(states)


@pytest.mark.parametrize("capacity", [2, 8, 40, 150])
def test_the_limit_settles_near_the_capacity_of_the_server(capacity: int) -> None:
    settled = learn(ConcurrencyLimit(max_limit=256), capacity, 4000)[2000:]
    assert 0.6 * capacity <= average(settled) <= 1.3 * capacity
    assert max(state.allowed for state in settled) <= 2 * capacity + 2


def test_the_limit_follows_a_changing_capacity() -> None:
    at_first = learn(ConcurrencyLimit(max_limit=256), 100, 1000)
    less = learn(at_first[-1], 10, 1000, start_s=1e4)
    assert average(less[500:]) < 15
    assert average(learn(less[-1], 100, 3000, start_s=2e4)[2000:]) > 60


def test_the_limit_does_not_grow_without_need() -> None:
    assert learn(ConcurrencyLimit(max_limit=256), 1000, 500, wanted=3)[-1].allowed == 4


def test_the_longer_first_token_times_of_long_prompts_do_not_reduce_the_limit() -> None:
    state = ConcurrencyLimit(max_limit=256)
    for now_s in range(0, 1000, 10):
        state = state.answered(0.05, 10, state.allowed, now_s)
        state = state.answered(2.0, 5000, state.allowed, now_s + 5)
    assert state.allowed > 50


def test_refusals_of_requests_sent_before_a_cut_do_not_cut_again() -> None:
    state = ConcurrencyLimit(max_limit=256, limit=100.0)
    once = state.refused(started_s=1.0, now_s=2.0)
    assert once.allowed == 50
    assert once.refused(started_s=1.5, now_s=2.1) == once
    assert once.refused(started_s=2.5, now_s=3.0).allowed == 25


@given(st.integers(1, 50), st.lists(st.tuples(st.booleans(), st.floats(0, 1e3), st.integers(0, 10**9)), max_size=60))
def test_the_limit_stays_within_its_bounds(most: int, observations: list[tuple[bool, float, int]]) -> None:
    state = ConcurrencyLimit(max_limit=most)
    for start_s, (is_answer, seconds, tokens) in enumerate(observations):
        state = (
            state.answered(seconds, tokens, state.allowed, start_s)
            if is_answer
            else state.refused(start_s, start_s + 0.5)
        )
        assert 1 <= state.allowed <= most
        assert math.isfinite(state.limit)


@given(st.integers(1, 100), st.floats(0, 200), st.floats(0, 1), st.none() | st.floats(0, 500))
def test_a_pause_is_at_least_retry_after_and_within_the_time_limit(
    tries: int, spent_s: float, fraction: float, after_s: float | None
) -> None:
    pause_s = retry_pause_s(tries, spent_s, 120.0, fraction, after_s)
    if pause_s is not None:
        assert spent_s + pause_s <= 120.0
        assert pause_s >= (after_s or 0.0)
        assert after_s is not None or 0 < pause_s <= BACKOFF.max_s


def test_pauses_grow_until_the_request_is_given_up() -> None:
    pauses = [retry_pause_s(tries, 0.0, 120.0, 1.0, None) for tries in range(1, 9)]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert retry_pause_s(1, 119.9, 120.0, 1.0, None) is None
    assert retry_pause_s(1, 0.0, 120.0, 0.0, 300.0) is None
