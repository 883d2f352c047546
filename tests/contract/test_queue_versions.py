"""Two releases on one queue, as during an upgrade: what the other one wrote is left to its own workers."""

import pytest
from redis import Redis

from scheduler.core.errors import NewerRecord
from scheduler.queue import RedisQueue
from tests.support.queue_calls import MODEL, claim, ids_of, submit

STRANGE = "3|something else"


def submit_from_another_release(redis: Redis, *ids: str) -> None:
    for id in ids:
        redis.hset(f"windrow:{MODEL}:jobs", id, STRANGE)
        redis.zadd(f"windrow:{MODEL}:ready", {id: 0.1})


def test_a_record_of_another_release_is_looked_past(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x", "y")
    submit(queue, "a", "b")
    assert ids_of(claim(queue, 1)) == ["a"]
    assert ids_of(claim(queue, 10)) == ["b"]
    assert claim(queue) == []


def test_many_records_of_another_release_do_not_block_the_queue(queue: RedisQueue, redis: Redis) -> None:
    ids = [f"x{number}" for number in range(3500)]
    redis.hset(f"windrow:{MODEL}:jobs", mapping=dict.fromkeys(ids, STRANGE))
    redis.zadd(f"windrow:{MODEL}:ready", dict.fromkeys(ids, 0.1))
    submit(queue, "a", "b", "c")
    assert ids_of(claim(queue, 1)) == ["a"]
    assert ids_of(claim(queue, 2)) == ["b", "c"]
    assert redis.zcard(f"windrow:{MODEL}:ready") == 3500


def test_it_stays_where_it_was(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x")
    claim(queue)
    queue.reap()
    assert redis.zscore(f"windrow:{MODEL}:ready", "x") == 0.1
    assert redis.hget(f"windrow:{MODEL}:jobs", "x") == STRANGE.encode()


def test_alone_it_wakes_nobody(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x")
    claim(queue)
    assert redis.llen(f"windrow:{MODEL}:wake") + redis.llen(f"windrow:{MODEL}:backlog") == 0


def test_it_can_be_neither_read_nor_canceled_here(queue: RedisQueue, redis: Redis) -> None:
    submit_from_another_release(redis, "x")
    with pytest.raises(NewerRecord):
        queue.lookup("x")
    assert queue.cancel("x") is False
