"""A window closes at its limits, at the end of its wait, or if no further request is likely."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windrow.scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count

LIMITS = WindowLimits(max_batch_size=4, max_batch_tokens=100, max_wait_s=0.020)
BUSY = JoinRate(requests=1000.0, observed_s=1.0)
ALONE = JoinRate(requests=0.0, observed_s=1.0)
SECONDS = st.floats(0, 10)
RATES = st.builds(JoinRate, requests=st.floats(0, 1e6), observed_s=st.floats(0, 1e3))
WINDOWS = st.builds(
    WindowLimits,
    max_batch_size=st.integers(1, 64),
    max_batch_tokens=st.integers(1, 20_000),
    max_wait_s=st.floats(0, 10),
)


def test_a_window_with_enough_requests_closes_at_once() -> None:
    assert decide_window(0.0, 0.0, 4, 10, LIMITS, BUSY) == Close("size")


def test_a_window_with_enough_tokens_closes_at_once() -> None:
    assert decide_window(0.0, 0.0, 2, 100, LIMITS, BUSY) == Close("tokens")


def test_a_window_closes_when_its_first_request_has_waited_for_the_maximum() -> None:
    assert decide_window(5.020, 5.0, 2, 10, LIMITS, BUSY) == Close("wait")


def test_a_window_closes_at_once_if_no_further_request_is_expected() -> None:
    assert decide_window(0.0, 0.0, 1, 10, LIMITS, ALONE) == Close("idle")


def test_a_window_stays_open_to_its_end_if_further_requests_are_expected() -> None:
    assert decide_window(5.005, 5.0, 1, 10, LIMITS, BUSY) == Wait(pytest.approx(5.020))


def test_the_window_is_measured_from_the_first_request_and_later_ones_do_not_extend_it() -> None:
    decisions = [
        decide_window(1.0 + at_s, 1.0, count, 10, LIMITS, BUSY) for at_s, count in ((0.0, 1), (0.01, 2), (0.019, 3))
    ]
    assert decisions == [Wait(pytest.approx(1.020))] * 3


def test_a_window_closes_when_the_remaining_time_is_too_short_for_another_request() -> None:
    one_in_20_ms = JoinRate(requests=50.0, observed_s=1.0)
    assert isinstance(decide_window(0.009, 0.0, 1, 10, LIMITS, one_in_20_ms), Wait)  # 11 ms left: 0.55 requests
    assert decide_window(0.011, 0.0, 1, 10, LIMITS, one_in_20_ms) == Close("idle")  # 9 ms left: 0.45 requests


def test_before_the_first_observation_a_configured_window_is_used() -> None:
    assert decide_window(0.0, 0.0, 1, 10, LIMITS, JoinRate.unknown(0.020)) == Wait(0.020)


def test_without_a_rate_the_whole_window_is_used() -> None:
    assert decide_window(5.019, 5.0, 1, 10, LIMITS, None) == Wait(pytest.approx(5.020))
    assert decide_window(5.020, 5.0, 1, 10, LIMITS, None) == Close("wait")


def test_a_window_of_zero_seconds_closes_at_once() -> None:
    limits = WindowLimits(4, 100, max_wait_s=0.0)
    assert decide_window(0.0, 0.0, 1, 10, limits, JoinRate.unknown(0.0)) == Close("wait")


@given(SECONDS, SECONDS, st.integers(1, 100), st.integers(1, 30_000), WINDOWS, RATES)
def test_no_request_waits_past_the_end_of_its_window(
    opened_s: float, waited_s: float, count: int, tokens: int, limits: WindowLimits, rate: JoinRate
) -> None:
    now_s = opened_s + waited_s
    decision = decide_window(now_s, opened_s, count, tokens, limits, rate)
    if isinstance(decision, Wait):
        assert now_s < decision.until_s == opened_s + limits.max_wait_s
        # A timer that fires at exactly this time must find the window closed despite rounding.
        assert isinstance(decide_window(decision.until_s, opened_s, count, tokens, limits, rate), Close)
    else:
        assert decision.closed_by in {"size", "tokens", "wait", "idle"}


@given(RATES, st.integers(0, 1000), st.floats(0, 100), st.floats(0, 10), SECONDS)
@example(JoinRate(0.0, 0.0), 1, 5e-324, 0.0, 0.0)  # a rate too large for a float, times zero
def test_a_rate_is_never_negative_or_undefined(
    rate: JoinRate, requests: int, observed_s: float, max_wait_s: float, seconds: float
) -> None:
    observed = rate.observe(requests, observed_s, max_wait_s)
    assert observed.requests >= 0
    assert observed.observed_s >= 0
    assert observed.expected(seconds) >= 0


def test_old_observations_lose_weight_so_that_the_rate_follows_a_change_in_traffic() -> None:
    rate = JoinRate(requests=1000.0, observed_s=1.0)
    for _ in range(100):
        rate = rate.observe(0, 0.020, 0.020)
    assert rate.expected(0.020) < 0.5
    for _ in range(10):
        rate = rate.observe(10, 0.020, 0.020)
    assert rate.expected(0.020) > 0.5


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=100), WINDOWS)
def test_at_least_one_request_is_taken_and_both_limits_are_respected(costs: list[int], limits: WindowLimits) -> None:
    count = take_count(costs, limits)
    assert 1 <= count <= min(len(costs), limits.max_batch_size)
    assert count == 1 or sum(costs[:count]) <= limits.max_batch_tokens


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=100), WINDOWS)
def test_a_window_takes_the_maximum_number_of_requests_that_fit(costs: list[int], limits: WindowLimits) -> None:
    count = take_count(costs, limits)
    if count < min(len(costs), limits.max_batch_size):
        assert sum(costs[: count + 1]) > limits.max_batch_tokens


def test_nothing_is_taken_from_an_empty_buffer() -> None:
    assert take_count([], LIMITS) == 0
