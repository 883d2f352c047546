"""What was given up can be read, sent again, or dropped."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, finish, ids_of, status_of, submit
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.ids import is_issued, shared_secret


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    """One attempt, and two dead letters."""
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    for id in ("old", "new"):
        submit(queue, id, priority="high", cost=7)
        claim(queue, lease_s=NO_LEASE_S)
        queue.reap()
    return queue


def test_they_are_listed_newest_first(queue: RedisQueue) -> None:
    assert [letter.id for letter in queue.dead_letters()] == ["new", "old"]
    assert [letter.id for letter in queue.dead_letters(1)] == ["new"]


def test_one_that_is_sent_again_is_a_new_request_and_the_old_one_keeps_its_end(queue: RedisQueue, redis: Redis) -> None:
    renamed = queue.retry_dead(["old", "unknown"])
    assert list(renamed) == ["old"]
    assert is_issued(shared_secret(redis), "acme", renamed["old"])
    assert status_of(queue, "old") == "failed"
    (again,) = claim(queue)
    assert (again.id, again.flow, again.attempt, again.call()["input"]) == (renamed["old"], "acme:high", 1, "hay")
    finish(queue, [again])
    assert [letter.id for letter in queue.dead_letters()] == ["new"]


def test_one_that_is_dropped_is_gone(queue: RedisQueue) -> None:
    assert queue.drop_dead(["old", "unknown"]) == 1
    assert [letter.id for letter in queue.dead_letters()] == ["new"]
    assert queue.drop_dead([]) == 0
    assert ids_of(claim(queue)) == []
