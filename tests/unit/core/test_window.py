"""When a row goes to the device: limits first, then patience, and patience only where company is likely."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windrow.scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count

LIMITS = WindowLimits(max_batch_size=4, max_batch_tokens=100, max_wait_s=0.020)
BUSY = JoinRate(joins=1000.0, exposure_s=1.0)
ALONE = JoinRate(joins=0.0, exposure_s=1.0)
SECONDS = st.floats(0, 10)
RATES = st.builds(JoinRate, joins=st.floats(0, 1e6), exposure_s=st.floats(0, 1e3))
WINDOWS = st.builds(
    WindowLimits,
    max_batch_size=st.integers(1, 64),
    max_batch_tokens=st.integers(1, 20_000),
    max_wait_s=st.floats(0, 10),
)


def test_a_row_that_is_full_by_requests_goes_at_once() -> None:
    assert decide_window(0.0, 0.0, 4, 10, LIMITS, BUSY) == Close("size")


def test_a_row_that_is_full_by_tokens_goes_at_once() -> None:
    assert decide_window(0.0, 0.0, 2, 100, LIMITS, BUSY) == Close("tokens")


def test_a_row_whose_first_request_has_waited_long_enough_goes() -> None:
    assert decide_window(5.020, 5.0, 2, 10, LIMITS, BUSY) == Close("wait")


def test_a_row_that_expects_no_company_goes_at_once() -> None:
    assert decide_window(0.0, 0.0, 1, 10, LIMITS, ALONE) == Close("idle")


def test_a_row_that_expects_company_waits_for_what_is_left_of_its_window() -> None:
    decision = decide_window(5.005, 5.0, 1, 10, LIMITS, BUSY)
    assert decision == Wait(pytest.approx(0.015))  # 20 ms from the first arrival, 5 of them gone


def test_the_window_is_counted_from_the_first_request_and_later_ones_do_not_extend_it() -> None:
    lefts = [
        decide_window(1.0 + at, 1.0, waiting, 10, LIMITS, BUSY) for at, waiting in ((0.0, 1), (0.01, 2), (0.019, 3))
    ]
    assert [left.seconds for left in lefts if isinstance(left, Wait)] == pytest.approx([0.020, 0.010, 0.001])


def test_waiting_stops_when_too_little_of_the_window_is_left_for_company() -> None:
    one_in_20_ms = JoinRate(joins=50.0, exposure_s=1.0)
    assert isinstance(decide_window(0.009, 0.0, 1, 10, LIMITS, one_in_20_ms), Wait)  # 11 ms: 0.55 requests
    assert decide_window(0.011, 0.0, 1, 10, LIMITS, one_in_20_ms) == Close("idle")  # 9 ms: 0.45 requests


def test_before_anything_was_seen_a_configured_window_is_used() -> None:
    assert decide_window(0.0, 0.0, 1, 10, LIMITS, JoinRate.unknown(0.020)) == Wait(0.020)


def test_without_a_rate_the_window_is_used_whole() -> None:
    assert decide_window(5.019, 5.0, 1, 10, LIMITS, None) == Wait(pytest.approx(0.001))
    assert decide_window(5.020, 5.0, 1, 10, LIMITS, None) == Close("wait")


def test_no_window_means_no_waiting() -> None:
    limits = WindowLimits(4, 100, max_wait_s=0.0)
    assert decide_window(0.0, 0.0, 1, 10, limits, JoinRate.unknown(0.0)) == Close("wait")


@given(SECONDS, SECONDS, st.integers(1, 100), st.integers(1, 30_000), WINDOWS, RATES)
def test_no_request_is_asked_to_wait_past_the_end_of_its_window(
    opened_s: float, waited_s: float, waiting: int, tokens: int, limits: WindowLimits, rate: JoinRate
) -> None:
    now_s = opened_s + waited_s
    decision = decide_window(now_s, opened_s, waiting, tokens, limits, rate)
    if isinstance(decision, Wait):
        assert decision.seconds > 0
        assert now_s + decision.seconds <= opened_s + limits.max_wait_s + 1e-9
    else:
        assert decision.closed_by in {"size", "tokens", "wait", "idle"}


@given(SECONDS, st.integers(1, 100), st.integers(1, 30_000), WINDOWS, RATES)
def test_every_row_goes_once_its_window_is_over(
    opened_s: float, waiting: int, tokens: int, limits: WindowLimits, rate: JoinRate
) -> None:
    assert isinstance(
        decide_window(opened_s + limits.max_wait_s + 1e-6, opened_s, waiting, tokens, limits, rate), Close
    )


@given(RATES, st.integers(0, 1000), st.floats(0, 100), st.floats(0, 10), SECONDS)
@example(JoinRate(joins=0.0, exposure_s=0.0), 1, 5e-324, 0.0, 0.0)  # a rate too large for a float, times nothing
def test_a_rate_stays_a_rate_whatever_is_observed(
    rate: JoinRate, joins: int, exposure_s: float, max_wait_s: float, seconds: float
) -> None:
    seen = rate.observe(joins, exposure_s, max_wait_s)
    assert seen.joins >= 0
    assert seen.exposure_s >= 0
    assert seen.expected(seconds) >= 0


def test_evidence_fades_so_that_a_change_in_traffic_is_noticed() -> None:
    rate = JoinRate(joins=1000.0, exposure_s=1.0)
    for _ in range(100):
        rate = rate.observe(0, 0.020, 0.020)
    assert rate.expected(0.020) < 0.5
    for _ in range(10):
        rate = rate.observe(10, 0.020, 0.020)
    assert rate.expected(0.020) > 0.5


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=100), WINDOWS)
def test_at_least_one_request_is_taken_and_never_more_than_both_limits_allow(
    lengths: list[int], limits: WindowLimits
) -> None:
    count = take_count(lengths, limits)
    assert 1 <= count <= min(len(lengths), limits.max_batch_size)
    assert count == 1 or sum(lengths[:count]) <= limits.max_batch_tokens


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=100), WINDOWS)
def test_as_many_are_taken_as_fit(lengths: list[int], limits: WindowLimits) -> None:
    count = take_count(lengths, limits)
    if count < min(len(lengths), limits.max_batch_size):
        assert sum(lengths[: count + 1]) > limits.max_batch_tokens


@given(st.lists(st.integers(1, 5_000), max_size=100), WINDOWS)
def test_taking_again_and_again_takes_everyone(lengths: list[int], limits: WindowLimits) -> None:
    left = list(lengths)
    takes = 0
    while left:
        del left[: take_count(left, limits)]
        takes += 1
    assert takes <= len(lengths)
