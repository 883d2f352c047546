"""Suspected poison requests, which were in two batches whose process died, are claimed alone."""

import pytest
from redis import Redis

from tests.support.queue_calls import LEASE_S, MODEL, NO_LEASE_S, claim, finish, held, ids_of, status_of, submit
from windrow.scheduler.queue import DeadLetters, RedisQueue


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, MODEL, max_attempts=3)


def lose(queue: RedisQueue, count: int, times: int) -> None:
    """Let a worker claim requests and die, repeatedly."""
    for _ in range(times):
        assert len(claim(queue, count, lease_s=NO_LEASE_S)) == count
        assert queue.reap() == count


def test_requests_of_one_dead_batch_are_still_claimed_together(queue: RedisQueue) -> None:
    submit(queue, *"abc")
    lose(queue, 3, times=1)
    assert ids_of(claim(queue)) == list("abc")


def test_requests_of_two_dead_batches_are_claimed_one_at_a_time(queue: RedisQueue) -> None:
    submit(queue, *"abc")
    lose(queue, 3, times=2)
    for id in "abc":
        claimed = queue.claim(10, lease_s=LEASE_S, alone=True)
        assert ids_of(claimed.requests) == [id]
        assert claimed.requests[0].attempt == 3
        assert not claimed.suspects_wait
        finish(queue, claimed.requests)
    assert queue.claim(10, lease_s=LEASE_S, alone=True).requests == []


def test_a_process_with_claimed_requests_gets_no_suspect(queue: RedisQueue) -> None:
    submit(queue, *"ab")
    lose(queue, 2, times=2)
    claimed = queue.claim(10, lease_s=LEASE_S)
    assert (claimed.requests, claimed.suspects_wait) == ([], True)
    assert queue.depth().waiting == 2


def test_requests_before_a_suspect_are_claimed_without_it(queue: RedisQueue) -> None:
    submit(queue, "suspect")
    lose(queue, 1, times=2)
    # New requests of the same flow follow the suspect; only another flow can have a smaller tag.
    submit(queue, "fresh", tenant="zeta", priority="high")
    suspect = queue.claim(1, lease_s=LEASE_S, alone=True).requests
    first = claim(queue, 1)
    queue.release(held(suspect))
    queue.release(held(first))
    both = queue.claim(10, lease_s=LEASE_S, alone=True)
    assert len(both.requests) == 1
    rest = queue.claim(10, lease_s=LEASE_S, alone=True)
    assert {*ids_of(both.requests), *ids_of(rest.requests)} == {"suspect", "fresh"}


def test_a_poison_request_among_many_does_not_fail_the_others(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, *(f"{number}" for number in range(31)), "killer")
    for _ in range(200):
        claimed = queue.claim(32, lease_s=NO_LEASE_S, alone=True).requests
        if not claimed:
            break
        if "killer" not in ids_of(claimed):
            finish(queue, claimed)
        queue.reap()
    assert [status_of(queue, f"{number}") for number in range(31)] == ["succeeded"] * 31
    assert status_of(queue, "killer") == "failed"
    assert [letter.id for letter in DeadLetters(redis, MODEL).newest()] == ["killer"]


def test_a_waiting_suspect_keeps_waking_workers(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    lose(queue, 1, times=2)
    claim(queue, wait_s=0.01)
    assert redis.llen(f"windrow:{MODEL}:backlog") == 1
