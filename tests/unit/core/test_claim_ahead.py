"""When the next row is claimed: late enough for what is urgent, early enough for the device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.claim_ahead import MARGIN_S, Pace

SECONDS = st.floats(0, 100)


def learnt(rows: int = 50, tokens: int = 1000, seconds: float = 0.1, prepare_s: float = 0.002) -> Pace:
    pace = Pace()
    for _ in range(rows):
        pace = pace.ran(tokens, seconds).prepared(prepare_s)
    return pace


def test_nothing_is_put_off_before_a_row_was_seen() -> None:
    assert Pace().claim_in_s(1000, 0.0) == 0.0
    assert Pace().prepared(1.0).claim_in_s(1000, 0.0) == 0.0


def test_the_next_row_is_claimed_shortly_before_the_present_one_ends() -> None:
    assert learnt().claim_in_s(1000, 0.0) == pytest.approx(0.1 - 2 * 0.002 - MARGIN_S)
    assert learnt().claim_in_s(1000, 0.05) == pytest.approx(0.05 - 2 * 0.002 - MARGIN_S)
    assert learnt().claim_in_s(1000, 0.2) == 0.0


def test_where_tokens_decide_a_longer_row_is_expected_to_take_longer() -> None:
    pace = Pace()
    for number in range(100):
        tokens = 1000 if number % 2 else 3000
        pace = pace.ran(tokens, tokens * 1e-4)
    assert pace.claim_in_s(2000, 0.0) == pytest.approx(0.2 - MARGIN_S)


def test_where_tokens_do_not_matter_every_row_is_expected_to_take_as_long_as_the_last() -> None:
    pace = Pace()
    for number in range(100):
        pace = pace.ran(1 if number % 2 else 64, 0.1)
    assert pace.claim_in_s(64, 0.0) == pytest.approx(0.1 - MARGIN_S)


def test_rows_that_take_now_more_now_less_are_claimed_earlier() -> None:
    pace = learnt()
    for number in range(50):
        pace = pace.ran(1000, 0.08 if number % 2 else 0.12)
    assert pace.claim_in_s(1000, 0.0) < 0.07


def test_short_rows_are_not_worth_waiting() -> None:
    assert learnt(seconds=0.015).claim_in_s(1000, 0.0) == 0.0


def test_rows_are_short_where_the_next_one_may_not_be_ready_in_time() -> None:
    assert learnt(seconds=0.015).is_short
    assert not learnt(seconds=0.025, prepare_s=0.002).is_short
    assert learnt(seconds=0.025, prepare_s=0.012).is_short


@given(st.lists(st.tuples(st.integers(0, 10_000), SECONDS, SECONDS), max_size=20), st.integers(0, 10_000), SECONDS)
def test_it_never_waits_past_the_expected_end(
    rows: list[tuple[int, float, float]], tokens: int, since_s: float
) -> None:
    pace = Pace()
    for row_tokens, seconds, prepare_s in rows:
        pace = pace.ran(row_tokens, seconds).prepared(prepare_s)
    wait_s = pace.claim_in_s(tokens, since_s)
    assert wait_s >= 0
    if pace.row_s is not None and wait_s:
        assert since_s + wait_s < max(pace.row_s, tokens * pace.token_s)
