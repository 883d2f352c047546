"""Tokens are collected into stream entries; the test controls the clock and the replies of Redis."""

from itertools import pairwise

import orjson
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import Entry, next_place
from windrow.worker.engines.base import STREAM_INTERVAL_S, Delta
from windrow.worker.steps.stream_buffer import StreamBuffer

FIRST_PLACE = "1000-0"


def make_request(id: str = "a") -> Request:
    return Request(id, "token", 2, 0.0, None, "t:normal", b'{"stream":true}', 1, 2)


def make_delta(text: str, *, id: str = "a", index: int = 0, ends: bool = False) -> Delta:
    return Delta(id, index, text, 1, None, Done({}) if ends else None, False)


def write_due(buffer: StreamBuffer, now_s: float) -> list[Entry]:
    """Write the entries that are due to a Redis that accepts all of them."""
    due = buffer.take_due(now_s)
    assert buffer.written(due, [entry.place or FIRST_PLACE for _, entry in due]) == []
    return [entry for _, entry in due]


def texts(entries: list[Entry]) -> list[str]:
    return [orjson.loads(entry.data)["text"] for entry in entries if entry.type == "output"]


def started_buffer() -> StreamBuffer:
    """Return a buffer that follows request "a", whose start event is written."""
    buffer = StreamBuffer()
    buffer.follow("a", make_request())
    write_due(buffer, 0.0)
    return buffer


def test_the_start_event_comes_first_and_names_the_attempt() -> None:
    buffer = StreamBuffer()
    buffer.follow("a", make_request())
    buffer.add(make_delta("Make"))
    (start,) = write_due(buffer, 0.0)
    assert (start.type, start.place, start.data) == ("start", "", b'{"id":"a","attempt":2}')
    (output,) = write_due(buffer, 0.0)
    assert output.place == next_place(FIRST_PLACE)
    assert orjson.loads(output.data) == {"index": 0, "text": "Make", "tokens": 1}


def test_the_first_token_is_due_at_once_and_later_ones_are_collected() -> None:
    buffer = started_buffer()
    buffer.add(make_delta("Make"))
    assert texts(write_due(buffer, 1.0)) == ["Make"]
    for text in (" hay", " while", " the"):
        buffer.add(make_delta(text))
    early_s = 1.0 + STREAM_INTERVAL_S / 2
    assert write_due(buffer, early_s) == []
    wait_s = buffer.wait_s(early_s)
    assert wait_s is not None
    assert texts(write_due(buffer, early_s + wait_s)) == [" hay while the"]
    assert buffer.wait_s(2.0) is None


def test_the_last_token_is_due_at_once() -> None:
    buffer = started_buffer()
    buffer.add(make_delta("Make"))
    write_due(buffer, 1.0)
    buffer.add(make_delta(" hay", ends=True))
    assert buffer.wait_s(1.0) == 0.0
    assert texts(write_due(buffer, 1.0)) == [" hay"]
    assert not buffer.is_pending("a")


def test_choices_and_metrics_are_separate_entries_with_consecutive_places() -> None:
    buffer = started_buffer()
    buffer.add_metric("a", "time_to_first_token_ms", 1.5)
    buffer.add(make_delta("one", index=1))
    buffer.add(make_delta("zero", index=0))
    entries = write_due(buffer, 0.0)
    assert [entry.type for entry in entries] == ["output", "output", "metric"]
    assert texts(entries) == ["zero", "one"]
    assert [entry.place for entry in entries] == ["1000-1", "1000-2", "1000-3"]


def test_a_request_whose_events_redis_refuses_is_reported_as_lost_and_dropped() -> None:
    buffer = StreamBuffer()
    buffer.follow("a", make_request())
    buffer.follow("b", make_request("b"))
    due = buffer.take_due(0.0)
    assert [request.id for request in buffer.written(due, [FIRST_PLACE, None])] == ["b"]
    buffer.add(make_delta("late", id="b", ends=True))
    assert buffer.is_empty


def test_requests_that_are_not_followed_are_not_buffered() -> None:
    buffer = StreamBuffer()
    buffer.add(make_delta("Make", ends=True))
    buffer.add_metric("a", "x", 1.0)
    assert buffer.is_empty


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 0.05)), max_size=60))
def test_all_text_is_written_once_in_order_and_at_intervals(steps: list[tuple[str, float]]) -> None:
    buffer, now_s = StreamBuffer(), 0.0
    written: dict[str, list[str]] = {"a": [], "b": []}
    times: dict[str, list[float]] = {"a": [], "b": []}
    for id in "ab":
        buffer.follow(id, make_request(id))
    write_due(buffer, now_s)
    for number, (id, pause_s) in enumerate(steps):
        now_s += pause_s
        buffer.add(make_delta(f"{number} ", id=id))
        for entry in write_due(buffer, now_s):
            written[entry.id] += texts([entry])
            times[entry.id].append(now_s)
    for id in "ab":
        buffer.add(make_delta("end", id=id, ends=True))
    for entry in write_due(buffer, now_s):
        written[entry.id] += texts([entry])
    for id in "ab":
        expected = "".join(f"{number} " for number, (step_id, _) in enumerate(steps) if step_id == id)
        assert "".join(written[id]) == expected + "end"
        assert all(later - earlier > STREAM_INTERVAL_S - 1e-9 for earlier, later in pairwise(times[id]))
