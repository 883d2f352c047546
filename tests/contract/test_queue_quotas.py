"""Tenant quotas, which the submit script checks: it queues all requests of a call or none."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, claim, finish, held, request, submit
from windrow.errors import InvalidInput, QuotaExceeded
from windrow.scheduler.core.admission import Quota
from windrow.scheduler.queue import RedisQueue

SIZE = len(request("a").payload)


def in_flight(redis: Redis) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = redis.hgetall(f"windrow:{MODEL}:tenants")
    return {name: value for name, value in found.items() if not name.startswith(b"r:")}


def test_the_requests_in_flight_of_a_tenant_are_limited(queue: RedisQueue) -> None:
    quota = Quota(max_in_flight=3)
    submit(queue, "a", "b", quota=quota)
    with pytest.raises(QuotaExceeded, match="2 of your requests"):
        submit(queue, "c", "d", quota=quota)
    submit(queue, "c", quota=quota)
    assert queue.depth().counts == {"submitted": 3, "rejected_tenant_in_flight": 2}


def test_running_requests_are_in_flight_and_finished_ones_are_not(queue: RedisQueue) -> None:
    quota = Quota(max_in_flight=1)
    submit(queue, "a", quota=quota)
    requests = claim(queue)
    with pytest.raises(QuotaExceeded):
        submit(queue, "b", quota=quota)
    finish(queue, requests)
    submit(queue, "b", quota=quota)
    queue.cancel("b")
    submit(queue, "c", quota=quota)


def test_the_quota_covers_all_priorities_of_a_tenant_and_no_other_tenant(queue: RedisQueue) -> None:
    quota = Quota(max_in_flight=2)
    submit(queue, "a", priority="high", quota=quota)
    submit(queue, "b", priority="low", quota=quota)
    with pytest.raises(QuotaExceeded):
        submit(queue, "c", quota=quota)
    submit(queue, "c", tenant="zeta", quota=quota)


def test_the_bytes_of_a_tenant_are_limited(queue: RedisQueue) -> None:
    quota = Quota(max_bytes=2 * SIZE)
    submit(queue, "a", "b", quota=quota)
    with pytest.raises(QuotaExceeded, match="bytes"):
        submit(queue, "c", quota=quota)
    finish(queue, claim(queue, 1))
    submit(queue, "c", quota=quota)


def test_more_than_the_burst_is_refused_with_the_time_to_wait(queue: RedisQueue) -> None:
    quota = Quota(requests_per_s=0.1, burst=3)
    submit(queue, "a", "b", quota=quota)
    submit(queue, "c", quota=quota)
    with pytest.raises(QuotaExceeded, match=r"0\.1 requests a second") as raised:
        submit(queue, "d", quota=quota)
    assert raised.value.retry_after_s == pytest.approx(10, abs=0.5)


def test_refused_requests_do_not_count_for_the_rate(queue: RedisQueue) -> None:
    quota = Quota(max_in_flight=1, requests_per_s=0.1, burst=2)
    submit(queue, "a", quota=quota)
    for _ in range(3):
        with pytest.raises(QuotaExceeded, match="in flight"):
            submit(queue, "b", quota=quota)
    finish(queue, claim(queue))
    submit(queue, "b", quota=quota)


def test_the_next_request_is_accepted_after_the_time_of_the_rate(queue: RedisQueue, redis: Redis) -> None:
    quota = Quota(requests_per_s=0.1, burst=1)
    submit(queue, "a", quota=quota)
    until_us = float(redis.hget(f"windrow:{MODEL}:tenants", "r:acme") or 0)
    redis.hset(f"windrow:{MODEL}:tenants", "r:acme", f"{until_us - 10e6:.0f}")
    submit(queue, "b", quota=quota)


def test_a_call_larger_than_the_burst_is_an_invalid_input(queue: RedisQueue) -> None:
    with pytest.raises(InvalidInput, match="2 at once"):
        submit(queue, "a", "b", "c", quota=Quota(requests_per_s=1.5))


def test_every_final_state_frees_the_quota_of_the_tenant(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    submit(queue, "a", "b", tenant="acme")
    submit(queue, "c", "d", tenant="org:team")
    assert in_flight(redis) == {
        b"n:acme": b"2", b"b:acme": b"%d" % (2 * SIZE), b"n:org:team": b"2", b"b:org:team": b"%d" % (2 * SIZE),
    }  # fmt: skip
    requests = claim(queue, 3)
    queue.release(held(requests[1:]))
    finish(queue, requests[:1])
    queue.cancel("b")
    claim(queue, lease_s=0)
    queue.reap()
    assert in_flight(redis) == {}
