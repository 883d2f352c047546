"""A request can be canceled in any state until it finishes."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, finish, held, ids_of, status_of, submit
from windrow.scheduler.queue import RedisQueue, finished_channel, result_key
from windrow.scheduler.queue.keys import read_announcement
from windrow.scheduler.queue.lookup import find_predictions


def test_a_canceled_waiting_request_is_never_claimed(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    assert queue.cancel("a")
    assert ids_of(claim(queue)) == ["b"]
    found = queue.lookup("a")
    assert found is not None
    assert (found.status, found.output) == ("canceled", None)
    assert found.error == {"code": "canceled", "detail": "canceled by request"}


def test_the_finish_of_a_canceled_running_request_is_refused(queue: RedisQueue) -> None:
    submit(queue, "a")
    requests = claim(queue)
    assert queue.cancel("a")
    assert finish(queue, requests) == [False]
    assert status_of(queue, "a") == "canceled"
    assert queue.depth().running == 0


def test_running_and_canceled_requests_have_the_claim_time_as_started_s(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c")
    claimed = queue.claim(2, lease_s=60)
    assert started(queue, "a", "b", "c") == [claimed.now_s, claimed.now_s, None]
    for id in "abc":
        queue.cancel(id)
    assert started(queue, "a", "b", "c") == [claimed.now_s, claimed.now_s, None]


def test_a_released_request_has_no_started_s(queue: RedisQueue) -> None:
    submit(queue, "a")
    queue.release(held(claim(queue)))
    assert started(queue, "a") == [None]


def test_started_s_is_the_time_of_the_latest_claim_among_many_claims(queue: RedisQueue) -> None:
    ids = [f"{number}" for number in range(12)]
    submit(queue, *ids)
    claims = [queue.claim(3, lease_s=60) for _ in range(4)]
    assert started(queue, *ids) == [claims[number // 3].now_s for number in range(12)]
    queue.release(held([*claims[0].requests[1:], *claims[2].requests]))
    (first,) = queue.claim(1, lease_s=60).requests
    again = queue.claim(1000, lease_s=60)
    assert ids_of([first, *again.requests]) == ["1", "2", "6", "7", "8"]
    assert started(queue, "0", "2", "3", "7", "11") == [
        claims[0].now_s, again.now_s, claims[1].now_s, again.now_s, claims[3].now_s,
    ]  # fmt: skip


def started(queue: RedisQueue, *ids: str) -> list[float | None]:
    times = [found.started_s for id in ids if (found := queue.lookup(id)) is not None]
    assert times == [found.started_s for found in find_predictions(queue._redis, MODEL, ids) if found is not None]
    return times


def test_a_canceled_request_is_not_requeued(queue: RedisQueue) -> None:
    submit(queue, "a")
    requests = claim(queue, lease_s=NO_LEASE_S)
    queue.cancel("a")
    assert queue.reap() == 0
    assert queue.release(held(requests)) == 0
    assert claim(queue) == []


def test_a_canceled_request_with_a_deadline_does_not_also_expire(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=1e-6)
    queue.cancel("a")
    assert queue.reap() == 0
    assert status_of(queue, "a") == "canceled"


def test_a_finished_request_cannot_be_canceled(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    finish(queue, claim(queue, 1))
    assert not queue.cancel("a")
    assert status_of(queue, "a") == "succeeded"
    assert queue.cancel("b")
    assert not queue.cancel("b")
    assert queue.depth().counts["canceled"] == 1


@pytest.mark.parametrize("id", ["never", ""])
def test_an_unknown_request_cannot_be_canceled(queue: RedisQueue, redis: Redis, id: str) -> None:
    assert not queue.cancel(id)
    assert redis.keys() == []


def test_canceling_frees_the_bytes_and_keeps_the_result_for_its_ttl(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, result_ttl_s=100)
    submit(queue, "a")
    queue.cancel("a")
    assert queue.depth().payload_bytes == 0
    assert 0 < redis.ttl(result_key("a")) <= 100


def test_canceling_is_published(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    pubsub = redis.pubsub()
    pubsub.subscribe(finished_channel(MODEL))
    queue.cancel("a")
    while (message := pubsub.get_message(ignore_subscribe_messages=True, timeout=5)) is None:
        pass
    assert read_announcement(message["data"]) == (["a"], redis.get(result_key("a")))
