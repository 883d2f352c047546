"""Decide whether a request whose worker died is retried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.retry import GiveUp, Retry, decide_retry


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_lost_attempt_is_retried_while_attempts_remain(attempt: int) -> None:
    assert decide_retry(attempt, max_attempts=3) == Retry(attempt + 1)


@pytest.mark.parametrize("attempt", [3, 4])
def test_the_last_attempt_is_not_retried(attempt: int) -> None:
    assert isinstance(decide_retry(attempt, max_attempts=3), GiveUp)


def test_the_reason_for_giving_up_names_the_number_of_attempts() -> None:
    assert decide_retry(3, max_attempts=3) == GiveUp("the worker died or lost its lease on each of 3 attempts")


def test_a_maximum_of_one_attempt_allows_no_retry() -> None:
    assert isinstance(decide_retry(1, max_attempts=1), GiveUp)


@given(st.integers(1, 50))
def test_a_request_gets_exactly_max_attempts_attempts(max_attempts: int) -> None:
    attempt, attempts_made = 1, 1
    while isinstance(decision := decide_retry(attempt, max_attempts), Retry):
        attempt, attempts_made = decision.attempt, attempts_made + 1
    assert attempts_made == max_attempts
