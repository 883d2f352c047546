"""Submit queues all requests of a call or none."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, claim, finish, ids_of, request, status_of, submit
from windrow.errors import IdempotencyConflict, QueueFull
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, finish_tag
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL


def test_a_submitted_request_can_be_claimed(queue: RedisQueue) -> None:
    assert submit(queue, "a") == ["a"]
    (claimed,) = claim(queue)
    assert (claimed.id, claimed.attempt, claimed.flow) == ("a", 1, "acme:normal")
    assert claimed.call() == {"model": MODEL, "input": "hay", "parameters": {}}


def test_requests_of_one_flow_are_claimed_in_the_order_of_the_call(queue: RedisQueue) -> None:
    ids = [f"{number % 7}-{number}" for number in range(50)]
    submit(queue, *ids)
    assert ids_of(claim(queue)) == ids


def test_requests_of_one_flow_are_claimed_in_the_order_of_the_calls_regardless_of_cost(queue: RedisQueue) -> None:
    for id, cost in (("c", 500), ("a", 1), ("b", 30)):
        submit(queue, id, cost=cost)
    assert ids_of(claim(queue)) == ["c", "a", "b"]


def test_the_maximum_number_of_requests_per_call_is_queued_claimed_and_finished(queue: RedisQueue) -> None:
    ids = [f"{number:04}" for number in range(MAX_REQUESTS_PER_CALL)]
    submit(queue, *ids)
    requests = claim(queue, MAX_REQUESTS_PER_CALL)
    assert ids_of(requests) == ids
    assert finish(queue, requests) == [True] * MAX_REQUESTS_PER_CALL


def test_a_call_above_the_maximum_number_of_requests_is_refused_and_queues_none(queue: RedisQueue) -> None:
    with pytest.raises(ValueError, match="1001 requests in one call; at most 1000"):
        submit(queue, *(f"{number}" for number in range(MAX_REQUESTS_PER_CALL + 1)))
    assert queue.depth().waiting == 0


def test_a_call_that_exceeds_max_depth_is_refused_entirely(queue: RedisQueue) -> None:
    submit(queue, "a", "b", max_depth=3)
    with pytest.raises(QueueFull, match="2 requests wait for model 'm', 2 more came, and 3 may wait") as raised:
        submit(queue, "c", "d", max_depth=3)
    assert raised.value.retry_after_s is None  # no rate is measured yet
    assert ids_of(claim(queue)) == ["a", "b"]
    assert status_of(queue, "c") is None


def test_a_call_that_reaches_max_depth_is_accepted(queue: RedisQueue) -> None:
    submit(queue, "a", max_depth=3)
    submit(queue, "b", "c", max_depth=3)
    assert queue.depth().waiting == 3


def test_a_call_that_exceeds_max_bytes_is_refused_entirely(queue: RedisQueue) -> None:
    size = len(request("a").payload)
    submit(queue, "a", max_bytes=3 * size)
    with pytest.raises(QueueFull, match="would hold more than"):
        submit(queue, "b", "c", "d", max_bytes=3 * size)
    assert queue.depth().payload_bytes == size
    submit(queue, "b", "c", max_bytes=3 * size)
    assert ids_of(claim(queue)) == ["a", "b", "c"]


def test_the_bytes_of_a_request_count_until_it_finishes(queue: RedisQueue) -> None:
    size = len(request("a").payload)
    submit(queue, "a", max_bytes=size)
    requests = claim(queue)
    with pytest.raises(QueueFull):
        submit(queue, "b", max_bytes=size)
    finish(queue, requests)
    submit(queue, "b", max_bytes=size)


def test_the_retry_after_of_a_full_queue_is_the_expected_wait_of_its_backlog(queue: RedisQueue) -> None:
    submit(queue, "measured")
    requests = claim(queue)
    queue.finish([requests[0].set_outcome(Done(1))], busy_s=2.0)
    submit(queue, *"abcdefghi")
    with pytest.raises(QueueFull) as raised:
        submit(queue, "j", max_depth=9)
    assert raised.value.retry_after_s == pytest.approx(18.0)  # 9 requests of one token at 2 s


def test_refused_requests_are_counted(queue: RedisQueue) -> None:
    with pytest.raises(QueueFull):
        submit(queue, "a", "b", max_depth=1)
    submit(queue, "a")
    assert queue.depth().counts == {"rejected_depth": 2, "submitted": 1}


def test_the_same_idempotency_key_and_body_return_the_ids_of_the_first_call(queue: RedisQueue) -> None:
    assert submit(queue, "a", "b", idempotency=("key", "print")) == ["a", "b"]
    assert submit(queue, "c", "d", idempotency=("key", "print")) == ["a", "b"]
    assert ids_of(claim(queue)) == ["a", "b"]


def test_a_repeated_idempotency_key_returns_the_ids_even_if_the_queue_is_full(queue: RedisQueue) -> None:
    submit(queue, "a", max_depth=1, idempotency=("key", "print"))
    assert submit(queue, "b", max_depth=1, idempotency=("key", "print")) == ["a"]


def test_the_same_idempotency_key_with_another_body_is_a_conflict(queue: RedisQueue) -> None:
    submit(queue, "a", idempotency=("key", "print"))
    with pytest.raises(IdempotencyConflict):
        submit(queue, "b", idempotency=("key", "other"))
    assert ids_of(claim(queue)) == ["a"]


def test_the_idempotency_key_of_a_refused_call_can_be_reused(queue: RedisQueue) -> None:
    with pytest.raises(QueueFull):
        submit(queue, "a", max_depth=0, idempotency=("key", "print"))
    assert submit(queue, "b", idempotency=("key", "other")) == ["b"]


def test_an_idempotency_key_expires_with_the_results(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, result_ttl_s=100)
    submit(queue, "a", idempotency=("key", "print"))
    assert 0 < redis.ttl("windrow:idempotency:key") <= 100


def test_an_id_that_is_already_waiting_is_queued_and_counted_once(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    submit(queue, "a", "c")  # Celery may deliver a message twice
    requests = claim(queue)
    assert ids_of(requests) == ["a", "b", "c"]
    finish(queue, requests)
    assert queue.depth().payload_bytes == 0


def test_an_id_that_is_already_running_is_not_queued_again(queue: RedisQueue) -> None:
    submit(queue, "a")
    requests = claim(queue)
    submit(queue, "a")
    assert claim(queue) == []
    assert finish(queue, requests) == [True]
    assert queue.depth().payload_bytes == 0


@pytest.mark.parametrize("virtual_time", [0.0, 12345.0625, 1e9 / 3])
def test_the_submit_script_computes_the_same_finish_tag_as_the_core(redis: Redis, virtual_time: float) -> None:
    queue = RedisQueue(redis, MODEL)
    redis.hset(f"windrow:{MODEL}:state", "vtime", repr(virtual_time))
    last: dict[str, float] = {}
    calls = [("high", 1), ("low", 700), ("normal", 3), ("high", 33), ("low", 0), ("normal", 1)]
    for number, (priority, cost) in enumerate(calls):
        submit(queue, f"{number}", priority=priority, cost=cost)
        expected = finish_tag(virtual_time, last.get(priority), cost, PRIORITY_WEIGHTS[priority])
        assert redis.zscore(f"windrow:{MODEL}:ready", f"{number}") == expected
        last[priority] = expected


def test_the_tag_of_an_idle_flow_starts_from_the_virtual_time(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL)
    submit(queue, "a", "b", cost=8)
    claim(queue)
    submit(queue, "c", cost=4)
    assert redis.zscore(f"windrow:{MODEL}:ready", "c") == finish_tag(4.0, None, 4, 4.0)  # V = 2 * 8 / 4


def test_a_refused_call_leaves_no_keys(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b", idempotency=("key", "print"))
    with pytest.raises(QueueFull):
        submit(queue, "c", max_depth=2)
    with pytest.raises(QueueFull):
        submit(queue, "c", "a", max_bytes=1)
    with pytest.raises(IdempotencyConflict):
        submit(queue, "c", idempotency=("key", "another"))
    assert submit(queue, "c", idempotency=("key", "print")) == ["a", "b"]
    assert set(redis.hkeys(f"windrow:{MODEL}:payloads")) == set(redis.hkeys(f"windrow:{MODEL}:jobs")) == {b"a", b"b"}


def test_payloads_are_deleted_with_their_records(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, *"abcd")
    finish(queue, claim(queue, 1))
    queue.cancel("b")
    assert set(redis.hkeys(f"windrow:{MODEL}:payloads")) == {b"c", b"d"}
    assert redis.hget(f"windrow:{MODEL}:payloads", "c") == request("c").payload


def test_submit_reloads_scripts_after_a_script_flush(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    redis.script_flush()
    submit(queue, "b")
    redis.script_flush()
    assert ids_of(claim(queue)) == ["a", "b"]
