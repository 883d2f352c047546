"""Lookups, depth and workers of a queue, and the keys that it leaves."""

import pytest
from redis import Redis

from tests.support.queue_calls import (
    MODEL,
    NO_LEASE_S,
    claim,
    finish,
    held,
    reap_until,
    request,
    status_of,
    submit,
)
from windrow.errors import ModelFailed
from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.ids import is_issued, make_id, shared_secret
from windrow.scheduler.queue.lookup import find_prediction, find_predictions

#: Keys without a TTL that remain after all requests have finished; the comments give their bounds.
KEPT = {
    f"windrow:{MODEL}:state",  # about a dozen fields
    f"windrow:{MODEL}:wake",  # one token
    f"windrow:{MODEL}:backlog",  # one token
    f"windrow:{MODEL}:dead",  # the newest 1,000 dead letters
    f"windrow:{MODEL}:dead_letters",
}


def test_a_lookup_finds_a_request_in_each_of_its_states(queue: RedisQueue) -> None:
    assert status_of(queue, "a") is None
    submit(queue, "a")
    assert status_of(queue, "a") == "queued"
    requests = claim(queue)
    assert status_of(queue, "a") == "processing"
    queue.release(held(requests))
    assert status_of(queue, "a") == "queued"
    finish(queue, claim(queue), Failed(ModelFailed("no")))
    assert status_of(queue, "a") == "failed"


def test_a_request_whose_lease_expired_is_processing_until_it_is_reaped(queue: RedisQueue) -> None:
    submit(queue, "a")
    claim(queue, lease_s=NO_LEASE_S)
    assert status_of(queue, "a") == "processing"
    queue.reap()
    assert status_of(queue, "a") == "queued"


def test_a_lookup_of_a_waiting_request_returns_its_input_and_parameters(queue: RedisQueue) -> None:
    submit(queue, "a", tenant="org:team", priority="high")
    found = queue.lookup("a")
    assert found is not None
    assert (found.id, found.model, found.tenant, found.priority) == ("a", MODEL, "org:team", "high")
    assert (found.input, found.output, found.error, found.completed_s) == ("hay", None, None, None)


def test_a_request_is_found_in_any_of_the_given_models(redis: Redis) -> None:
    first, second = RedisQueue(redis, "first"), RedisQueue(redis, "second")
    submit(first, "a")
    submit(second, "b")
    finish(second, claim(second))
    assert [find_prediction(redis, ["first", "second"], id) is not None for id in ("a", "b", "c")] == [
        True,
        True,
        False,
    ]


def test_many_requests_are_looked_up_at_once_in_the_given_order(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "finished", "running", "waiting")
    finish(queue, claim(queue, 1))
    claim(queue, 1)
    found = find_predictions(redis, MODEL, ["waiting", "never", "finished", "running"])
    assert [prediction and prediction.status for prediction in found] == ["queued", None, "succeeded", "processing"]
    assert [prediction == queue.lookup(prediction.id) for prediction in found if prediction] == [True, True, True]
    assert find_predictions(redis, MODEL, []) == []


def test_the_result_of_an_ordinary_celery_task_is_not_a_prediction(queue: RedisQueue, redis: Redis) -> None:
    redis.set("celery-task-meta-x", b'{"task_id": "x", "status": "SUCCESS", "result": {"windrow": {"status": 1}}}')
    assert queue.lookup("x") is None
    assert find_predictions(redis, MODEL, ["x"]) == [None]


def test_depth_counts_waiting_and_running_requests_and_their_bytes(queue: RedisQueue) -> None:
    size = len(request("a").payload)
    submit(queue, "a", "b", "c")
    claim(queue, 1)
    depth = queue.depth()
    assert (depth.waiting, depth.running, depth.workers) == (2, 1, 0)
    assert depth.payload_bytes == 3 * size
    assert depth.cost_tokens == 3
    assert depth.counts == {"submitted": 3}


def test_an_empty_queue_has_zero_depth_and_no_keys(queue: RedisQueue, redis: Redis) -> None:
    depth = queue.depth()
    assert (depth.waiting, depth.running, depth.workers, depth.payload_bytes) == (0, 0, 0, 0)
    assert (depth.cost_tokens, depth.token_s, depth.wait_s, depth.counts) == (0, None, None, {})
    assert queue.claim(10, lease_s=1).requests == []
    assert queue.reap() == 0
    assert redis.keys() == []


def test_the_expected_wait_is_the_queued_cost_over_the_measured_rate_of_all_workers(queue: RedisQueue) -> None:
    submit(queue, "measured", cost=10)
    queue.finish([claim(queue)[0].set_outcome(Done(1))], busy_s=0.5)
    submit(queue, "a", "b", "c", cost=20)
    assert queue.depth().wait_s == pytest.approx(3.0)  # 60 tokens at 0.05 s
    for worker in ("one", "two"):
        queue.heartbeat(worker, Heartbeat(), stale_s=60)
    assert queue.depth().wait_s == pytest.approx(1.5)


def test_a_worker_without_a_recent_heartbeat_is_not_counted(queue: RedisQueue, redis: Redis) -> None:
    queue.heartbeat("alive", Heartbeat(), stale_s=60)
    queue.heartbeat("silent", Heartbeat(), stale_s=60)
    redis.zadd(f"windrow:{MODEL}:workers", {"silent": (redis.time()[0] - 16) * 1e6})
    assert queue.depth().workers == 1


def test_workers_with_a_recent_heartbeat_are_listed(queue: RedisQueue) -> None:
    queue.heartbeat("one", Heartbeat(device="cpu"), stale_s=60)
    queue.heartbeat("two", Heartbeat(), stale_s=60)
    assert queue.workers(within_s=60) == {"one": Heartbeat(device="cpu"), "two": Heartbeat()}
    assert queue.depth().workers == 2


def test_the_latest_heartbeat_of_a_worker_is_returned(queue: RedisQueue) -> None:
    queue.heartbeat("one", Heartbeat(device="old"), stale_s=60)
    queue.heartbeat("one", Heartbeat(device="new"), stale_s=60)
    assert queue.workers(within_s=60) == {"one": Heartbeat(device="new")}


def test_a_worker_without_a_recent_heartbeat_is_not_listed_and_later_deleted(queue: RedisQueue) -> None:
    queue.heartbeat("silent", Heartbeat(), stale_s=60)
    while queue.workers(within_s=0.001):
        pass
    assert queue.workers(within_s=60) == {"silent": Heartbeat()}
    queue.heartbeat("alive", Heartbeat(), stale_s=0.001)
    assert queue.workers(within_s=60) == {"alive": Heartbeat()}


def test_after_all_requests_have_finished_only_bounded_keys_have_no_ttl(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=2)
    submit(queue, "done", "failed", tenant="x")
    finish(queue, claim(queue, 1))
    finish(queue, claim(queue, 1), Failed(ModelFailed("no")))
    submit(queue, "canceled-waiting", "canceled-running", "released", tenant="y", deadline_s=600)
    queue.cancel("canceled-waiting")
    claim(queue, 1)
    queue.cancel("canceled-running")
    queue.release(held(claim(queue)))
    finish(queue, claim(queue))
    submit(queue, "late", tenant="z", deadline_s=1e-6, idempotency=("key", "print"))
    reap_until(queue, lambda: status_of(queue, "late") == "expired")
    submit(queue, "poison", tenant="z")
    for _ in range(2):
        claim(queue, lease_s=NO_LEASE_S)
        queue.reap()
    assert status_of(queue, "poison") == "failed"

    without_ttl = {key.decode() for key in redis.keys("*") if redis.ttl(key) < 0}
    assert without_ttl <= KEPT
    assert queue.depth().payload_bytes == 0
    assert redis.zcard(f"windrow:{MODEL}:dead") == redis.hlen(f"windrow:{MODEL}:dead_letters") == 1
    assert redis.llen(f"windrow:{MODEL}:wake") <= 1


def test_the_secret_is_created_once_and_shared(redis: Redis) -> None:
    secret = shared_secret(redis)
    assert len(secret) == 32
    assert shared_secret(redis) == secret
    assert is_issued(shared_secret(redis), "acme", make_id(secret, "acme"))
