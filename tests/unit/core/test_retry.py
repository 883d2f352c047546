"""What becomes of a request whose worker is gone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.retry import GiveUp, Retry, decide_retry


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_lost_attempt_is_followed_by_the_next_while_attempts_are_left(attempt: int) -> None:
    assert decide_retry(attempt, max_attempts=3) == Retry(attempt + 1)


@pytest.mark.parametrize("attempt", [3, 4])
def test_the_last_attempt_is_not_repeated(attempt: int) -> None:
    assert isinstance(decide_retry(attempt, max_attempts=3), GiveUp)


def test_giving_up_says_how_many_attempts_were_made() -> None:
    assert decide_retry(3, max_attempts=3) == GiveUp("the worker died or lost its lease on each of 3 attempts")


def test_with_one_attempt_there_is_no_second() -> None:
    assert isinstance(decide_retry(1, max_attempts=1), GiveUp)


@given(st.integers(1, 50))
def test_a_request_gets_exactly_as_many_attempts_as_it_may(max_attempts: int) -> None:
    attempt, made = 1, 1
    while isinstance(verdict := decide_retry(attempt, max_attempts), Retry):
        attempt, made = verdict.attempt, made + 1
    assert made == max_attempts
