"""Event streams: entries are appended, entries of lost attempts are refused, and the last event is the result."""

from itertools import pairwise

import orjson
import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, PLENTY, claim, finish, held, reap_until, submit
from windrow.errors import ModelFailed
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.queue import RedisQueue, Request, Submission
from windrow.scheduler.queue.events import BEGINNING, Entry, Event, EventStreams, is_gap, next_place, read_events
from windrow.scheduler.queue.keys import canceled_channel, events_channel, events_key


def submit_streaming(queue: RedisQueue, *ids: str, deadline_s: float | None = None) -> None:
    payload = orjson.dumps({"model": MODEL, "input": "hay", "parameters": {}, "stream": True})
    submissions = [Submission(id, payload, deadline_s=deadline_s, is_followed=True) for id in ids]
    queue.submit(submissions, flow="acme:normal", weight=1.0, max_depth=PLENTY, max_bytes=PLENTY)


def with_output(claimed: Request) -> Request:
    return claimed.set_outcome(Done({"text": "Make hay"}))


def append_start(streams: EventStreams, claimed: Request) -> str:
    """Append the first entry of an attempt; return its place."""
    (place,) = streams.append([Entry(claimed.id, claimed.token, "", "start", b"{}")])
    assert place is not None
    return place


def append_outputs(streams: EventStreams, claimed: Request, after: str, *texts: bytes) -> str:
    """Append one output per text after the place ``after``; return the place of the last."""
    entries = []
    for text in texts:
        after = next_place(after)
        entries.append(Entry(claimed.id, claimed.token, after, "output", text))
    assert streams.append(entries) == [entry.place for entry in entries]
    return after


def events(redis: Redis, id: str, after: str = BEGINNING) -> list[Event]:
    return read_events(redis, {id: after})[id]


def types(redis: Redis, id: str) -> list[str]:
    return [event.type for event in events(redis, id)]


@pytest.fixture
def streams(redis: Redis) -> EventStreams:
    return EventStreams(redis, MODEL)


def test_events_are_read_in_order_and_end_with_the_request(
    queue: RedisQueue, streams: EventStreams, redis: Redis
) -> None:
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    append_outputs(streams, claimed, append_start(streams, claimed), b'"Make"', b'" hay"')
    assert queue.finish([with_output(claimed)], may_stream=True) == [True]
    published = events(redis, "a")
    assert [event.type for event in published] == ["start", "output", "output", "completed"]
    assert [event.data for event in published[1:]] == [b'"Make"', b'" hay"', b'{"status":"succeeded"}']
    assert [event.place for event in published] == sorted({event.place for event in published})
    assert not any(is_gap(before.place, event) for before, event in pairwise(published))


def test_each_request_of_a_batch_ends_its_own_stream(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    ids = [f"r{number:02}" for number in range(20)]
    submit_streaming(queue, *ids)
    submit(queue, "unfollowed")
    requests = claim(queue)
    append_start(streams, requests[0])
    queue.cancel(ids[1])
    assert queue.finish([with_output(claimed) for claimed in requests], may_stream=True) == [
        claimed.id != ids[1] for claimed in requests
    ]
    assert [types(redis, id) for id in ids] == [["start", "completed"], ["error"], *[["completed"]] * 18]
    assert not redis.exists(events_key("unfollowed"))


def test_a_reader_continues_after_any_place(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    append_outputs(streams, claimed, append_start(streams, claimed), *(b"%d" % number for number in range(5)))
    published = events(redis, "a")
    for number, event in enumerate(published):
        assert events(redis, "a", event.place) == published[number + 1 :]


def test_appending_an_entry_twice_has_no_effect(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    start = append_start(streams, claimed)
    append_outputs(streams, claimed, start, b"1", b"2")
    append_outputs(streams, claimed, start, b"1", b"2", b"3")
    assert [event.data for event in events(redis, "a")] == [b"{}", b"1", b"2", b"3"]


def test_a_start_event_that_is_retried_after_a_lost_reply_is_not_a_restart(
    queue: RedisQueue, streams: EventStreams, redis: Redis
) -> None:
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    assert append_start(streams, claimed) == append_start(streams, claimed)
    assert types(redis, "a") == ["start"]
    queue.release(held([claimed]))
    (claimed,) = claim(queue)
    place = append_start(streams, claimed)
    assert append_start(streams, claimed) == place
    append_outputs(streams, claimed, place, b"1")
    assert types(redis, "a") == ["start", "restart", "output"]


def test_only_the_current_claim_of_a_request_may_append(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    submit_streaming(queue, "a", "b")
    claimed, other = claim(queue)
    start = append_start(streams, claimed)
    queue.cancel("a")
    entries = [
        Entry("a", claimed.token, next_place(start), "output", b"1"),
        Entry("b", other.token, "", "start", b"{}"),
        Entry("never", "token", "", "start", b"{}"),
    ]
    places = streams.append(entries)
    assert [places[0], places[2]] == [None, None]
    assert types(redis, "a") == ["start", "error"]
    assert types(redis, "b") == ["start"]
    assert not redis.exists(events_key("never"))


def test_a_new_attempt_restarts_the_stream_and_entries_of_the_lost_one_are_refused(
    queue: RedisQueue, streams: EventStreams, redis: Redis
) -> None:
    submit_streaming(queue, "a")
    (lost,) = claim(queue, lease_s=NO_LEASE_S)
    last = append_outputs(streams, lost, append_start(streams, lost), b"1")
    assert reap_until(queue, lambda: queue.depth().waiting == 1) == 1
    (claimed,) = claim(queue)
    assert streams.append([Entry("a", lost.token, next_place(last), "output", b"2")]) == [None]
    append_outputs(streams, claimed, append_start(streams, claimed), b"1")
    assert types(redis, "a") == ["start", "output", "restart", "output"]


def test_a_released_request_restarts_its_stream(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    append_start(streams, claimed)
    queue.release(held([claimed]))
    append_start(streams, claim(queue)[0])
    assert types(redis, "a") == ["start", "restart"]


def test_every_final_state_except_success_is_an_error_event_with_the_status(
    queue: RedisQueue, streams: EventStreams, redis: Redis
) -> None:
    submit_streaming(queue, "failed", "canceled")
    for claimed in claim(queue):
        append_start(streams, claimed)
        if claimed.id == "failed":
            queue.finish([claimed.set_outcome(Failed(ModelFailed("no")))], may_stream=True)
    queue.cancel("canceled")
    submit_streaming(queue, "expired", deadline_s=1e-6)
    assert reap_until(queue, lambda: queue.depth().waiting == 0) == 1
    for id, status in {"failed": b"failed", "canceled": b"canceled", "expired": b"expired"}.items():
        assert events(redis, id)[-1][1:] == ("error", b'{"status":"%b"}' % status)


def test_a_dead_letter_ends_its_stream(redis: Redis, streams: EventStreams) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    submit_streaming(queue, "a")
    append_start(streams, claim(queue, lease_s=NO_LEASE_S)[0])
    reap_until(queue, lambda: queue.depth().running == 0)
    assert types(redis, "a") == ["start", "error"]


def test_requests_that_are_not_followed_have_no_event_stream(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b")
    claimed, _ = claim(queue)
    queue.finish([with_output(claimed)], may_stream=True)
    queue.cancel("b")
    assert redis.keys("windrow:events:*") == []


def test_a_stream_expires_with_the_result(redis: Redis, streams: EventStreams) -> None:
    queue = RedisQueue(redis, MODEL, result_ttl_s=100)
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    append_start(streams, claimed)
    assert redis.ttl(events_key("a")) > 100
    queue.finish([with_output(claimed)], may_stream=True)
    assert 0 < redis.ttl(events_key("a")) <= 100


def test_a_stream_is_bounded_and_a_slow_reader_notices_the_gap(
    queue: RedisQueue, streams: EventStreams, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windrow.scheduler.queue.events.MAX_ENTRIES", 100)
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    start = append_start(streams, claimed)
    last = start
    for _ in range(50):
        last = append_outputs(streams, claimed, last, *[b"x" * 100] * 20)
    assert redis.xlen(events_key("a")) < 300
    first = events(redis, "a", start)[0]
    assert is_gap(start, first)
    assert not is_gap(last, Event(next_place(last), "output", b"y"))
    assert not is_gap(start, Event("9-9", "completed", b"{}"))


def test_new_entries_and_cancellations_are_published(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    submit_streaming(queue, "a", "b", "waits")
    claimed, other = claim(queue, 2)
    with redis.pubsub() as inbox:
        inbox.subscribe(events_channel(MODEL), canceled_channel(MODEL))
        streams.append([Entry(request.id, request.token, "", "start", b"{}") for request in (claimed, other)])
        queue.cancel("waits")
        queue.cancel("a")
        received: list[tuple[bytes, bytes]] = []
        while len(received) < 2:
            message = inbox.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is not None:
                received.append((message["channel"], message["data"]))
    assert received == [(b"windrow:m:events", b"a b"), (b"windrow:m:canceled", b"a")]


def test_a_late_finish_does_not_change_the_stream(queue: RedisQueue, streams: EventStreams, redis: Redis) -> None:
    submit_streaming(queue, "a")
    (claimed,) = claim(queue)
    append_start(streams, claimed)
    queue.cancel("a")
    assert finish(queue, [claimed]) == [False]
    assert queue.finish([with_output(claimed)], may_stream=True) == [False]
    assert types(redis, "a") == ["start", "error"]
