"""Waiting for a Redis that is away: pauses that grow, differ and are bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from windrow.worker.leases.redis_retry import FIRST_S, LONGEST_S, pause_s, retry_redis


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_is_at_least_half_of_its_step_and_never_too_long(failures: int, fraction: float) -> None:
    assert FIRST_S / 2 <= pause_s(failures, fraction) <= LONGEST_S


def test_pauses_double_until_the_longest() -> None:
    assert [pause_s(failures, 1.0) for failures in (1, 2, 3, 4, 5, 6, 7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_two_workers_do_not_come_back_in_step() -> None:
    assert pause_s(5, 0.1) != pause_s(5, 0.2)


class Away:
    """A Redis that fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, answer: str) -> str:
        if self.failures:
            self.failures -= 1
            raise RedisConnectionError("away")
        return answer


def test_a_call_is_repeated_until_redis_is_back() -> None:
    pauses: list[float] = []
    assert retry_redis(Away(5), "here", sleep=pauses.append) == "here"
    assert len(pauses) == 5


def test_a_call_is_given_up_after_the_attempt_that_failed_and_without_a_pause() -> None:
    pauses: list[float] = []
    assert retry_redis(Away(5), "here", give_up=lambda: len(pauses) == 2, sleep=pauses.append) is None
    assert len(pauses) == 2


def test_what_is_not_redis_is_not_repeated() -> None:
    with pytest.raises(ZeroDivisionError):
        retry_redis(lambda: 1 // 0)
