"""Requests that workers release, or lose, and the order in which they are claimed again."""

import pytest
from redis import Redis

from tests.support.queue_calls import (
    MODEL,
    NO_LEASE_S,
    claim,
    finish,
    held,
    ids_of,
    reap_until,
    status_of,
    submit,
)
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue, result_key

SHORT_S = 0.02


def waits(queue: RedisQueue, count: int) -> bool:
    return queue.depth().waiting == count


def test_released_requests_are_first_in_their_order_and_as_the_same_attempt(queue: RedisQueue) -> None:
    submit(queue, *"dcbae")
    requests = claim(queue, 4)
    assert queue.release(held(requests)) == 4
    again = claim(queue)
    assert ids_of(again) == list("dcbae")
    assert {claimed.attempt for claimed in again} == {1}


def test_only_leased_requests_are_released(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    requests = claim(queue)
    queue.cancel("a")
    assert queue.release({**held(requests), "never": "token"}) == 1
    assert queue.release(held(requests)) == 0
    assert ids_of(claim(queue)) == ["b"]


def test_a_finish_after_a_release_is_refused(queue: RedisQueue) -> None:
    submit(queue, "a")
    requests = claim(queue)
    queue.release(held(requests))
    assert finish(queue, requests) == [False]
    assert status_of(queue, "a") == "queued"


def test_a_release_with_a_lost_token_does_not_affect_the_new_claim(
    queue: RedisQueue,
) -> None:
    submit(queue, "a")
    first = claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    second = claim(queue)
    assert queue.release(held(first)) == 0
    assert claim(queue) == []
    assert finish(queue, second) == [True]


def test_claiming_a_requeued_request_does_not_decrease_the_virtual_time(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b", cost=8)
    requests = claim(queue)
    queue.release(held(requests[:1]))
    claim(queue)
    assert float(redis.hget(f"windrow:{MODEL}:state", "vtime") or 0) == 4.0  # b: 2 * 8 / 4
    submit(queue, "c", cost=8)
    assert redis.zscore(f"windrow:{MODEL}:ready", "c") == 6.0


def test_releasing_no_requests_has_no_effect(queue: RedisQueue) -> None:
    assert queue.release({}) == 0


def test_lost_attempts_are_counted_across_a_release(queue: RedisQueue) -> None:
    submit(queue, "a")
    claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    queue.release(held(claim(queue)))
    assert [claimed.attempt for claimed in claim(queue)] == [2]


def test_requests_released_by_two_workers_keep_their_order(queue: RedisQueue) -> None:
    submit(queue, *"edcbaf")
    first, second = claim(queue, 3), claim(queue, 2)
    queue.release(held(first))
    queue.release(held(second))
    assert ids_of(claim(queue)) == list("edcbaf")


def test_requests_released_by_the_second_worker_first_keep_their_order(queue: RedisQueue) -> None:
    submit(queue, *"edcbaf")
    first, second = claim(queue, 3), claim(queue, 2)
    queue.release(held(second))
    queue.release(held(first))
    assert ids_of(claim(queue)) == list("edcbaf")


def test_requests_of_a_lost_worker_are_requeued_in_their_order(queue: RedisQueue) -> None:
    submit(queue, *"zyxwva")
    claim(queue, 5, lease_s=NO_LEASE_S)
    queue.reap()
    assert ids_of(claim(queue)) == list("zyxwva")


def test_a_claim_between_two_releases_keeps_the_order_of_the_others(queue: RedisQueue) -> None:
    submit(queue, *"fedcba")
    first, second = claim(queue, 2), claim(queue, 2)
    queue.release(held(first))
    assert ids_of(claim(queue, 1)) == ["f"]
    queue.release(held(second))
    assert ids_of(claim(queue)) == list("edcba")


def test_a_waiting_request_past_its_deadline_expires(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "late", deadline_s=SHORT_S)
    submit(queue, "timeless")
    reap_until(queue, lambda: status_of(queue, "late") == "expired")
    found = queue.lookup("late")
    assert found is not None
    assert found.error is not None
    assert found.error["code"] == "deadline_exceeded"
    assert redis.ttl(result_key("late")) > 0
    assert ids_of(claim(queue)) == ["timeless"]
    assert queue.depth().counts == {"submitted": 2, "expired": 1}


def test_a_running_request_past_its_deadline_is_not_expired_by_the_reaper(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=1e-6)
    requests = claim(queue)
    assert queue.reap() == 0
    assert queue.finish([requests[0].set_outcome(Done(1))]) == [True]


def test_a_requeued_request_past_its_deadline_expires(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=1e-6)
    claim(queue, lease_s=NO_LEASE_S)
    reap_until(queue, lambda: status_of(queue, "a") == "expired")
    assert claim(queue) == []
    assert queue.depth().payload_bytes == 0


def test_a_deadline_that_just_passed_is_not_read_as_no_deadline(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=0.0)
    reap_until(queue, lambda: status_of(queue, "a") == "expired")


@pytest.mark.parametrize("count", [1, 499, 500, 501])
def test_every_deadline_is_enforced_for_any_number_of_requests(queue: RedisQueue, count: int) -> None:
    submit(queue, *(f"{number}" for number in range(count)), deadline_s=1e-6)
    assert reap_until(queue, lambda: waits(queue, 0)) == count
    assert queue.depth().counts["expired"] == count


def test_a_request_whose_payload_was_deleted_blocks_no_other(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    submit(queue, "a", "b")
    claim(queue, lease_s=NO_LEASE_S)
    redis.hdel(f"windrow:{MODEL}:payloads", "a")
    reap_until(queue, lambda: [status_of(queue, id) for id in "ab"] == ["failed", "failed"])
    found = queue.lookup("a")
    assert found is not None
    assert found.input is None
