"""A Redis call is retried until Redis answers or the caller gives up."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from windrow.worker.leases.redis_retry import retry_redis


class FailingCall:
    """Raises a connection error for the first ``failures`` calls, then returns its argument."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, answer: str) -> str:
        if self.failures:
            self.failures -= 1
            raise RedisConnectionError("unavailable")
        return answer


def test_a_call_is_retried_until_redis_answers() -> None:
    pauses: list[float] = []
    assert retry_redis(FailingCall(5), "answer", sleep=pauses.append) == "answer"
    assert len(pauses) == 5


def test_a_call_returns_none_without_another_pause_when_the_caller_gives_up() -> None:
    pauses: list[float] = []
    assert retry_redis(FailingCall(5), "answer", give_up=lambda: len(pauses) == 2, sleep=pauses.append) is None
    assert len(pauses) == 2


def test_other_errors_are_not_retried() -> None:
    with pytest.raises(ZeroDivisionError):
        retry_redis(lambda: 1 // 0)
