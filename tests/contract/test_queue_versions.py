"""During an upgrade, two releases share a queue, and the workers of each claim only its own records."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, ids_of, submit
from windrow.errors import NewerRecord
from windrow.scheduler.queue import RedisQueue

STRANGE = "4|something else"


def submit_from_another_release(redis: Redis, *ids: str) -> None:
    """Submit like another release, with a different key of waiting requests and the same key of records."""
    for id in ids:
        redis.hset(f"windrow:{MODEL}:jobs", id, STRANGE)
        redis.zadd(f"windrow:{MODEL}:ready-4", {id: 0.1})


def test_a_record_of_another_release_is_not_claimed(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x", "y")
    submit(queue, "a", "b")
    assert ids_of(claim(queue, 1)) == ["a"]
    assert ids_of(claim(queue, 10)) == ["b"]
    assert claim(queue) == []


def test_a_record_of_another_release_keeps_its_place(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x")
    redis.zadd(f"windrow:{MODEL}:deadlines", {"x": 1})
    claim(queue)
    assert queue.reap() == 0
    assert redis.zscore(f"windrow:{MODEL}:ready-4", "x") == 0.1
    assert redis.hget(f"windrow:{MODEL}:jobs", "x") == STRANGE.encode()


def test_a_record_of_another_release_can_be_neither_read_nor_canceled(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x")
    with pytest.raises(NewerRecord):
        queue.lookup("x")
    assert queue.cancel("x") is False


def test_a_record_of_another_version_is_skipped_and_does_not_block_others(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b")
    redis.hset(f"windrow:{MODEL}:jobs", "a", STRANGE)
    assert ids_of(claim(queue, lease_s=NO_LEASE_S)) == ["b"]
    assert queue.reap() == 1
    assert ids_of(claim(queue)) == ["b"]
