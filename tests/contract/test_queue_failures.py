"""Load failures: workers report the models that they could not load."""

from __future__ import annotations

import orjson
import pytest
from redis import Redis

from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import FORGET_AFTER_S, read_failures, redis_now_s, report_load_failure

KEY = "windrow:m:failures"


def reasons(redis: Redis) -> dict[str, str]:
    return {worker: failure.reason for worker, failure in read_failures(redis, "m").items()}


def test_the_last_reason_of_each_worker_is_kept(redis: Redis) -> None:
    start_s = redis_now_s(redis)
    report_load_failure(redis, "m", "b/0", "no safetensors")
    report_load_failure(redis, "m", "a/0", "out of memory")
    report_load_failure(redis, "m", "a/0", "out of memory again")
    assert reasons(redis) == {"a/0": "out of memory again", "b/0": "no safetensors"}
    assert read_failures(redis, "other") == {}
    assert RedisQueue(redis, "m").workers(within_s=60) == {}
    assert all(start_s <= failure.told_s <= redis_now_s(redis) for failure in read_failures(redis, "m").values())


def test_a_worker_that_stops_reporting_is_forgotten(redis: Redis) -> None:
    long_ago_us = round((redis_now_s(redis) - FORGET_AFTER_S - 1) * 1e6)
    redis.hset(KEY, "gone/0", orjson.dumps({"reason": "no safetensors", "told_us": long_ago_us}))
    assert reasons(redis) == {}
    report_load_failure(redis, "m", "a/0", "out of memory")
    assert redis.hkeys(KEY) == [b"a/0"]
    assert 0 < redis.ttl(KEY) <= FORGET_AFTER_S


@pytest.mark.parametrize("reason", ["", "x" * 100_000])
def test_a_reason_has_a_bounded_length(redis: Redis, reason: str) -> None:
    report_load_failure(redis, "m", "a/0", reason)
    assert reasons(redis) == {"a/0": reason[:1000]}
