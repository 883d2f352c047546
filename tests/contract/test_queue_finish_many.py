"""Large batches finish with plain commands in addition to scripts, and with the same guarantees."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, claim, finish, held, ids_of, status_of, submit
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue, Request, finished_channel, result_key
from windrow.scheduler.queue.keys import read_announcement
from windrow.scheduler.queue.redis_queue import FEW_DOCUMENTS

COUNT = FEW_DOCUMENTS + 3
IDS = [f"r{number:02}" for number in range(COUNT)]


@pytest.fixture
def requests(queue: RedisQueue) -> list[Request]:
    """More claimed requests than ``FEW_DOCUMENTS``."""
    submit(queue, *IDS)
    return claim(queue)


def by_position(requests: list[Request]) -> list[Request]:
    return [request.set_outcome(Done({"at": number})) for number, request in enumerate(requests)]


def subscribe(redis: Redis, *channels: str) -> Any:
    """Subscribe to the channels; `messages` reads what arrives."""
    inbox = redis.pubsub(ignore_subscribe_messages=True)
    inbox.subscribe(*channels)
    for _ in channels:
        inbox.get_message(timeout=5)
    return inbox


def messages(inbox: Any, count: int) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    while len(found) < count:
        message = inbox.get_message(timeout=5)
        assert message is not None, found
        found.append((message["channel"].decode(), message["data"]))
    assert inbox.get_message(timeout=0.05) is None
    return found


def left_over(redis: Redis) -> list[bytes]:
    return [key for key in redis.scan_iter() if key.endswith(b":refused")]


def test_each_result_has_its_output_its_input_and_a_ttl(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, result_ttl_s=100)
    submit(queue, *IDS)
    assert queue.finish(by_position(claim(queue))) == [True] * COUNT
    for number, id in enumerate(IDS):
        found = queue.lookup(id)
        assert found is not None
        assert (found.status, found.input, found.output) == ("succeeded", "hay", {"at": number})
        assert 0 < redis.ttl(result_key(id)) <= 100
    assert left_over(redis) == []
    depth = queue.depth()
    assert (depth.running, depth.payload_bytes, depth.counts["succeeded"]) == (0, 0, COUNT)


def test_results_are_published_together_and_to_each_subscriber(
    queue: RedisQueue, redis: Redis, requests: list[Request]
) -> None:
    inbox = subscribe(redis, result_key(IDS[3]), finished_channel(MODEL))
    finish(queue, requests)
    (own_channel, document), (model_channel, ids) = messages(inbox, 2)
    assert (own_channel, model_channel) == (result_key(IDS[3]), finished_channel(MODEL))
    assert document == redis.get(result_key(IDS[3]))
    assert json.loads(document)["status"] == "SUCCESS"
    assert read_announcement(ids) == (IDS, None)


def test_a_pattern_subscriber_receives_every_result(queue: RedisQueue, redis: Redis, requests: list[Request]) -> None:
    inbox = redis.pubsub(ignore_subscribe_messages=True)
    inbox.psubscribe(result_key("*"))
    inbox.get_message(timeout=5)
    queue.cancel(IDS[0])
    finish(queue, requests)
    assert [channel for channel, _ in messages(inbox, COUNT)] == [result_key(id) for id in IDS]


def test_the_first_finish_is_kept_in_a_large_batch(queue: RedisQueue, redis: Redis, requests: list[Request]) -> None:
    queue.cancel(IDS[2])
    finish(queue, requests[5:6], Done("first"))
    before = {id: (redis.get(result_key(id)), redis.ttl(result_key(id))) for id in (IDS[2], IDS[5])}
    inbox = subscribe(redis, result_key(IDS[2]), finished_channel(MODEL))
    assert queue.finish(by_position(requests)) == [number not in (2, 5) for number in range(COUNT)]
    for id, (document, ttl_s) in before.items():
        assert redis.get(result_key(id)) == document
        assert 0 < redis.ttl(result_key(id)) <= ttl_s
    ((_, ids),) = messages(inbox, 1)
    assert read_announcement(ids)[0] == [id for id in IDS if id not in before]
    assert left_over(redis) == []
    assert queue.depth().counts["late"] == 2


def test_a_request_that_was_released_meanwhile_gets_no_result(
    queue: RedisQueue, redis: Redis, requests: list[Request]
) -> None:
    queue.release(held(requests[1:2]))
    (again,) = claim(queue)
    never = Request("never", "", 1, 0.0, None, "acme:normal", b"{}", 1, 2)
    finished = by_position([*requests, never])
    assert queue.finish(finished) == [True, False] + [True] * (COUNT - 2) + [False]
    assert status_of(queue, IDS[1]) == "processing"
    assert not redis.exists(result_key(IDS[1]), result_key("never"))
    assert finish(queue, [again]) == [True]


def test_if_all_requests_are_late_no_result_is_stored_or_published(
    queue: RedisQueue, redis: Redis, requests: list[Request]
) -> None:
    queue.release(held(requests))
    inbox = subscribe(redis, finished_channel(MODEL))
    assert finish(queue, requests) == [False] * COUNT
    assert messages(inbox, 0) == []
    assert not redis.exists(*map(result_key, IDS))
    assert ids_of(claim(queue)) == IDS


def test_a_single_request_that_is_not_late_is_published_with_its_document(
    queue: RedisQueue, redis: Redis, requests: list[Request]
) -> None:
    queue.release(held(requests[1:]))
    inbox = subscribe(redis, finished_channel(MODEL))
    finish(queue, requests)
    ((_, message),) = messages(inbox, 1)
    assert read_announcement(message) == ([IDS[0]], redis.get(result_key(IDS[0])))


def test_the_same_request_twice_among_many_finishes_once(queue: RedisQueue, requests: list[Request]) -> None:
    finished = [*by_position(requests), replace(requests[0]).set_outcome(Done("again"))]
    assert queue.finish(finished) == [True] * COUNT + [False]
    found = queue.lookup(IDS[0])
    assert found is not None
    assert found.output == {"at": 0}


def test_a_resubmitted_id_gets_the_new_result(queue: RedisQueue, requests: list[Request]) -> None:
    finish(queue, requests, Done("old"))
    submit(queue, *IDS)
    finish(queue, claim(queue), Done("new"))
    found = [queue.lookup(id) for id in IDS]
    assert [prediction.output for prediction in found if prediction is not None] == ["new"] * COUNT


def test_a_resubmitted_id_is_not_finished_by_its_earlier_claim(queue: RedisQueue, requests: list[Request]) -> None:
    finish(queue, requests[:-1], Done("old"))
    submit(queue, *IDS[:-1])
    again = claim(queue, 4)
    assert finish(queue, requests[:-1], Done("old again")) == [False] * (COUNT - 1)
    assert finish(queue, requests[-1:]) == [True]
    assert finish(queue, [*again, *claim(queue)], Done("new")) == [True] * (COUNT - 1)
    found = [queue.lookup(id) for id in IDS[:-1]]
    assert [prediction.output for prediction in found if prediction is not None] == ["new"] * (COUNT - 1)
    assert queue.depth().running == 0


def test_a_deleted_record_does_not_block_the_other_requests_of_a_batch(
    queue: RedisQueue, redis: Redis, requests: list[Request]
) -> None:
    queue.release(held(requests[:1]))
    redis.hdel(f"windrow:{MODEL}:jobs", IDS[3])
    assert queue.finish(by_position(requests), may_stream=True) == [False] + [True] * (COUNT - 1)
    assert [status_of(queue, id) for id in IDS] == ["queued"] + ["succeeded"] * (COUNT - 1)
    assert queue.depth().counts["succeeded"] == COUNT - 1
    assert ids_of(claim(queue)) == IDS[:1]


def test_results_are_stored_after_a_script_flush(queue: RedisQueue, redis: Redis, requests: list[Request]) -> None:
    queue.cancel(IDS[0])
    redis.script_flush()
    assert finish(queue, requests) == [False] + [True] * (COUNT - 1)
    assert [status_of(queue, id) for id in IDS] == ["canceled"] + ["succeeded"] * (COUNT - 1)


def test_a_full_redis_still_finishes_many_requests(real_redis: Redis) -> None:
    queue = RedisQueue(real_redis, MODEL)
    submit(queue, *IDS)
    requests = claim(queue)
    queue.cancel(IDS[4])
    real_redis.config_set("maxmemory-policy", "noeviction")
    real_redis.config_set("maxmemory", 1)
    try:
        assert finish(queue, requests) == [number != 4 for number in range(COUNT)]
        assert [status_of(queue, id) for id in IDS] == ["canceled" if id == IDS[4] else "succeeded" for id in IDS]
    finally:
        real_redis.config_set("maxmemory", 0)
