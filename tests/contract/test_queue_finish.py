"""Claimed -> finished: the first finish is kept, stored in Celery's format and published."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from redis import Redis

from tests.support.celery_caller import calling
from tests.support.queue_calls import MODEL, claim, finish, ids_of, request, status_of, submit
from windrow.errors import ModelFailed, OutOfMemory
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.queue import RedisQueue, Request, finished_channel, result_key
from windrow.scheduler.queue.keys import read_announcement
from windrow.scheduler.queue.redis_queue import expired


class Subscriber:
    """A subscriber of the given channels."""

    def __init__(self, redis: Redis, *channels: str) -> None:
        self._pubsub = redis.pubsub()
        self._pubsub.subscribe(*channels)
        for _ in channels:
            self._next()

    def _next(self) -> Any:
        while (message := self._pubsub.get_message(timeout=5)) is None:
            pass
        return message

    def receive(self) -> tuple[str, bytes]:
        """Return the next message: channel and data."""
        message = self._next()
        return message["channel"].decode(), message["data"]


@pytest.fixture
def celery_app(real_url: str) -> Iterator[Celery]:
    """A caller's Celery app, with its results in the Redis under test."""
    with calling(Celery("caller", broker=real_url, backend=real_url, set_as_current=False)) as app:
        yield app


@pytest.fixture
def real_queue(real_redis: Redis) -> RedisQueue:
    return RedisQueue(real_redis, MODEL)


def test_a_lookup_of_a_finished_request_returns_its_output(queue: RedisQueue) -> None:
    submit(queue, "a")
    (claimed,) = claim(queue)
    assert queue.finish([claimed.set_outcome(Done({"label": "good"}), 12.5, {"batch_size": 1})]) == [True]
    found = queue.lookup("a")
    assert found is not None
    assert (found.status, found.output, found.error) == ("succeeded", {"label": "good"}, None)
    assert (found.started_s, found.metrics, found.tenant, found.input) == (12.5, {"batch_size": 1}, "acme", "hay")
    assert found.created_s == pytest.approx(claimed.created_s)
    assert found.completed_s is not None
    assert found.completed_s >= found.created_s


def test_the_requests_of_a_batch_finish_in_one_call_with_their_own_outcomes(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c")
    a, b, c = claim(queue)
    finished = [
        a.set_outcome(Done(1)),
        b.set_outcome(Failed(ModelFailed("no"))),
        c.set_outcome(expired()),
    ]
    assert queue.finish(finished) == [True, True, True]
    assert [status_of(queue, id) for id in "abc"] == ["succeeded", "failed", "expired"]
    depth = queue.depth()
    assert (depth.waiting, depth.running, depth.payload_bytes) == (0, 0, 0)
    assert depth.counts == {"submitted": 3, "succeeded": 1, "failed": 1, "expired": 1}


def test_an_input_that_looks_like_a_result_document_is_stored_as_an_input(queue: RedisQueue) -> None:
    tricky = '1|2|3|4|a:b|"},"windrow":{"status":"failed"}\x00\n\u2028'
    queue.submit([request("a", input=tricky)], flow="acme:low", weight=1.0, max_depth=9, max_bytes=9999)
    finish(queue, claim(queue), Done({"text": tricky}))
    found = queue.lookup("a")
    assert found is not None
    assert (found.status, found.input, found.output) == ("succeeded", tricky, {"text": tricky})


def test_a_result_expires_after_its_ttl(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, result_ttl_s=100)
    submit(queue, "a")
    finish(queue, claim(queue))
    assert 0 < redis.ttl(result_key("a")) <= 100


def test_results_are_published_on_their_own_channels_and_once_per_batch_on_the_channel_of_the_model(
    queue: RedisQueue, redis: Redis
) -> None:
    submit(queue, "a", "b")
    requests = claim(queue)
    subscriber = Subscriber(redis, result_key("a"), result_key("b"), finished_channel(MODEL))
    finish(queue, requests)
    received = [subscriber.receive() for _ in range(3)]
    assert [channel for channel, _ in received] == [result_key("a"), result_key("b"), finished_channel(MODEL)]
    assert received[0][1] == redis.get(result_key("a"))
    assert received[2][1] == b"a b"


def test_a_single_finished_request_is_published_with_its_document(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    subscriber = Subscriber(redis, finished_channel(MODEL))
    finish(queue, claim(queue), Done("two\nlines"))
    assert read_announcement(subscriber.receive()[1]) == (["a"], redis.get(result_key("a")))


def test_a_long_document_is_not_published_on_the_channel_of_the_model(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    subscriber = Subscriber(redis, finished_channel(MODEL))
    finish(queue, claim(queue), Done("x" * 20_000))
    assert read_announcement(subscriber.receive()[1]) == (["a"], None)


def test_the_result_is_stored_when_it_is_published(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    subscriber = Subscriber(redis, finished_channel(MODEL))
    finish(queue, claim(queue))
    subscriber.receive()
    assert status_of(queue, "a") == "succeeded"


def test_the_first_finish_is_kept_and_a_second_one_is_refused_and_counted(queue: RedisQueue) -> None:
    submit(queue, "a")
    (claimed,) = claim(queue)
    assert queue.finish([claimed.set_outcome(Done("first"))]) == [True]
    assert queue.finish([claimed.set_outcome(Done("second"))]) == [False]
    found = queue.lookup("a")
    assert found is not None
    assert found.output == "first"
    assert queue.depth().counts["late"] == 1


def test_the_same_request_twice_in_one_call_finishes_once(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    a, b = claim(queue)
    finished = [a.set_outcome(Done(1)), replace(a).set_outcome(Done(2)), b.set_outcome(Done(3))]
    assert queue.finish(finished) == [True, False, True]
    found = queue.lookup("a")
    assert found is not None
    assert found.output == 1
    assert queue.depth().payload_bytes == 0
    assert queue.depth().counts == {"submitted": 2, "succeeded": 2, "late": 1}


@pytest.mark.parametrize("token", ["", "0123456789abcdef"])
def test_a_finish_with_the_wrong_attempt_token_is_refused(queue: RedisQueue, token: str) -> None:
    submit(queue, "a")
    (claimed,) = claim(queue)
    assert queue.finish([replace(claimed, token=token).set_outcome(Done(1))]) == [False]
    assert status_of(queue, "a") == "processing"


def test_a_finish_of_an_unclaimed_or_unknown_request_is_refused(queue: RedisQueue) -> None:
    submit(queue, "a")
    never = Request("never", "", 1, 0.0, None, "acme:normal", b"{}", 1, 2)
    assert finish(queue, [replace(never, id="a"), never]) == [False, False]
    assert status_of(queue, "a") == "queued"
    assert status_of(queue, "never") is None


def test_a_batch_with_one_late_request_stores_the_others(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c")
    a, b, c = claim(queue)
    queue.cancel("b")
    finished = [claimed.set_outcome(Done(1)) for claimed in (a, b, c)]
    assert queue.finish(finished) == [True, False, True]
    assert [status_of(queue, id) for id in "abc"] == ["succeeded", "canceled", "succeeded"]


def test_finishing_no_requests_has_no_effect(queue: RedisQueue) -> None:
    assert queue.finish([]) == []


def test_the_time_of_one_token_is_averaged_from_the_time_of_batches(queue: RedisQueue) -> None:
    submit(queue, *"abcdefgh", cost=10)
    for count, busy_s in ((4, 4.0), (2, 12.0)):
        requests = claim(queue, count)
        queue.finish([claimed.set_outcome(Done(1)) for claimed in requests], busy_s=busy_s)
    assert queue.depth().token_s == pytest.approx(0.2)  # 0.8 * 4 / 40 + 0.2 * 12 / 20


def test_a_succeeded_request_has_status_success_in_celery(real_queue: RedisQueue, celery_app: Celery) -> None:
    submit(real_queue, "a")
    finish(real_queue, claim(real_queue), Done({"embedding": [0.5]}))
    result = AsyncResult("a", app=celery_app)
    assert result.status == "SUCCESS"
    assert result.get(timeout=10) == {"embedding": [0.5]}
    assert result.successful()
    assert result.date_done is not None
    assert result.traceback is None


def test_a_waiting_celery_caller_is_notified(real_queue: RedisQueue, celery_app: Celery) -> None:
    submit(real_queue, "a")
    result = AsyncResult("a", app=celery_app)
    received: list[Any] = []
    result.then(received.append)
    finish(real_queue, claim(real_queue), Done(1))
    assert result.get(timeout=10) == 1


@pytest.mark.parametrize("error", [ModelFailed("the model raised ValueError"), OutOfMemory("too long")])
def test_a_failure_raises_the_same_error_in_celery(
    real_queue: RedisQueue, celery_app: Celery, error: ModelFailed | OutOfMemory
) -> None:
    submit(real_queue, "a")
    finish(real_queue, claim(real_queue), Failed(error))
    result = AsyncResult("a", app=celery_app)
    assert result.status == "FAILURE"
    assert result.failed()
    with pytest.raises(type(error), match=error.detail):
        result.get(timeout=10)


def test_a_canceled_request_is_revoked_in_celery(real_queue: RedisQueue, celery_app: Celery) -> None:
    submit(real_queue, "a")
    real_queue.cancel("a")
    result = AsyncResult("a", app=celery_app)
    assert result.status == "REVOKED"
    with pytest.raises(TaskRevokedError, match="canceled by request"):
        result.get(timeout=10)


def test_an_expired_request_is_revoked_in_celery(real_queue: RedisQueue, celery_app: Celery) -> None:
    submit(real_queue, "a")
    finish(real_queue, claim(real_queue), expired())
    with pytest.raises(TaskRevokedError, match="the deadline passed"):
        AsyncResult("a", app=celery_app).get(timeout=10)


def test_a_queued_request_is_pending_in_celery(real_queue: RedisQueue, celery_app: Celery) -> None:
    submit(real_queue, "a")
    assert AsyncResult("a", app=celery_app).status == "PENDING"


def test_forgetting_a_result_in_celery_deletes_the_prediction(real_queue: RedisQueue, celery_app: Celery) -> None:
    submit(real_queue, "a")
    finish(real_queue, claim(real_queue))
    AsyncResult("a", app=celery_app).forget()
    assert real_queue.lookup("a") is None


def test_date_done_is_the_finish_time_in_iso_format(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    document = json.loads(redis.get(result_key("a")) or b"")
    done = datetime.fromisoformat(document["date_done"])
    assert done.tzinfo == UTC
    assert done.timestamp() == pytest.approx(document["windrow"]["completed_us"] / 1e6, abs=1e-5)


def test_only_unfinished_requests_are_claimed_again(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    finish(queue, claim(queue, 1))
    assert ids_of(claim(queue)) == ["b"]
