"""Memory per request, and the calls that still work on a full Redis."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.support.queue_calls import (
    LEASE_S,
    MODEL,
    NO_LEASE_S,
    PLENTY,
    claim,
    finish,
    held,
    ids_of,
    reap_until,
    status_of,
    submit,
)
from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.queue import RedisQueue, Request, Submission


@pytest.fixture
def full(real_redis: Redis) -> Iterator[tuple[RedisQueue, list[Request]]]:
    """A queue with four claimed and twenty waiting requests, on a Redis that then exceeded its memory limit."""
    queue = RedisQueue(real_redis, MODEL, max_attempts=2)
    submit(queue, *"abcd", priority="high")
    requests = claim(queue, 4)
    submit(queue, *(f"waiting-{number}" for number in range(20)), priority="low")
    real_redis.config_set("maxmemory-policy", "noeviction")
    real_redis.config_set("maxmemory", 1)
    yield queue, requests
    real_redis.config_set("maxmemory", 0)


def test_ten_thousand_waiting_requests_use_at_most_700_bytes_each_in_addition_to_their_payload(
    real_redis: Redis,
) -> None:
    queue = RedisQueue(real_redis, MODEL)
    submit(queue, "scripts-are-loaded")
    finish(queue, claim(queue))
    payload = b'{"model":"m","input":"' + b"x" * 176 + b'"}'
    assert len(payload) == 200
    before = real_redis.info("memory")["used_memory"]
    for start in range(0, 10_000, 1000):
        queue.submit(
            [Submission(f"{number:032}", payload, 40, 600.0) for number in range(start, start + 1000)],
            flow="acme:normal",
            weight=4.0,
            max_depth=PLENTY,
            max_bytes=PLENTY,
        )
    used = real_redis.info("memory")["used_memory"] - before
    assert used / 10_000 <= 200 + 700


def test_a_full_redis_refuses_new_requests_and_keeps_accepted_ones(full: tuple[RedisQueue, list[Request]]) -> None:
    queue, _ = full
    before = queue.depth()
    with pytest.raises(RedisError, match=r"OOM|used memory"):
        submit(queue, "new")
    after = queue.depth()
    assert status_of(queue, "new") is None
    assert (after.waiting, after.payload_bytes) == (before.waiting, before.payload_bytes)


def test_a_full_redis_still_finishes_requests(full: tuple[RedisQueue, list[Request]]) -> None:
    queue, requests = full
    assert finish(queue, requests) == [True] * 4
    assert [status_of(queue, request.id) for request in requests] == ["succeeded"] * 4


def test_a_full_redis_still_lets_workers_claim(
    full: tuple[RedisQueue, list[Request]],
) -> None:
    queue, requests = full
    finish(queue, requests)
    finished = 0
    while requests := claim(queue, 7):
        finished += sum(finish(queue, requests))
    assert finished == 20
    assert queue.depth().payload_bytes == 0


def test_a_full_redis_still_cancels_waiting_and_running_requests(full: tuple[RedisQueue, list[Request]]) -> None:
    queue, _ = full
    assert queue.cancel("a")
    assert queue.cancel("waiting-0")
    assert [status_of(queue, id) for id in ("a", "waiting-0")] == ["canceled", "canceled"]


def test_a_full_redis_still_renews_leases(full: tuple[RedisQueue, list[Request]]) -> None:
    queue, requests = full
    assert queue.renew(held(requests), lease_s=LEASE_S) == []


def test_a_full_redis_still_stores_heartbeats(full: tuple[RedisQueue, list[Request]]) -> None:
    queue, _ = full
    queue.heartbeat("worker", Heartbeat(), stale_s=60)
    assert queue.workers(within_s=60) == {"worker": Heartbeat()}


def test_a_full_redis_still_accepts_releases(full: tuple[RedisQueue, list[Request]]) -> None:
    queue, requests = full
    assert queue.release(held(requests)) == 4
    assert ids_of(claim(queue, 4)) == list("abcd")


def test_a_full_redis_still_reaps_lost_requests_and_keeps_dead_letters(
    full: tuple[RedisQueue, list[Request]],
) -> None:
    queue, requests = full
    queue.release(held(requests))
    for status in ("queued", "failed"):
        assert ids_of(claim(queue, 4, lease_s=NO_LEASE_S)) == list("abcd")
        reap_until(queue, lambda status=status: status_of(queue, "a") == status)  # type: ignore[misc]
    assert [status_of(queue, request.id) for request in requests] == ["failed"] * 4
