"""Tokens gathered into entries, with the clock and the reader in the test's hand."""

from itertools import pairwise

import orjson
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import Entry, next_place
from windrow.worker.engines.base import STREAM_INTERVAL_S, Delta
from windrow.worker.steps.stream_buffer import StreamBuffer

BASE = "1000-0"


def request(id: str = "a") -> Request:
    return Request(id, "token", 2, 0.0, None, "t:normal", b'{"stream":true}', 1, 2)


def delta(text: str, *, id: str = "a", index: int = 0, ends: bool = False) -> Delta:
    return Delta(id, index, text, 1, None, Done({}) if ends else None, False)


def tell(gatherer: StreamBuffer, now_s: float) -> list[Entry]:
    """What is due now, told by a Redis that takes everything."""
    due = gatherer.due(now_s)
    assert gatherer.told(due, [entry.place or BASE for _, entry in due]) == []
    return [entry for _, entry in due]


def said(entries: list[Entry]) -> list[str]:
    return [orjson.loads(entry.data)["text"] for entry in entries if entry.type == "output"]


def test_the_start_is_told_before_all_else_and_names_the_attempt() -> None:
    gatherer = StreamBuffer()
    gatherer.begin("a", request())
    gatherer.add(delta("Make"))
    (start,) = tell(gatherer, 0.0)
    assert (start.type, start.place, start.data) == ("start", "", b'{"id":"a","attempt":2}')
    (output,) = tell(gatherer, 0.0)
    assert (output.place, orjson.loads(output.data)) == (next_place(BASE), {"index": 0, "text": "Make", "tokens": 1})


def test_the_first_token_goes_at_once_and_the_next_ones_are_gathered() -> None:
    gatherer = StreamBuffer()
    gatherer.begin("a", request())
    tell(gatherer, 0.0)
    gatherer.add(delta("Make"))
    assert said(tell(gatherer, 1.0)) == ["Make"]
    for text in (" hay", " while", " the"):
        gatherer.add(delta(text))
    assert tell(gatherer, 1.0 + STREAM_INTERVAL_S / 2) == []
    wait_s = gatherer.wait_s(1.0 + STREAM_INTERVAL_S / 2)
    assert wait_s is not None
    assert said(tell(gatherer, 1.0 + STREAM_INTERVAL_S / 2 + wait_s)) == [" hay while the"]
    assert gatherer.wait_s(2.0) is None


def test_the_end_waits_for_nothing() -> None:
    gatherer = StreamBuffer()
    gatherer.begin("a", request())
    tell(gatherer, 0.0)
    gatherer.add(delta("Make"))
    tell(gatherer, 1.0)
    gatherer.add(delta(" hay", ends=True))
    assert gatherer.wait_s(1.0) == 0.0
    assert said(tell(gatherer, 1.0)) == [" hay"]
    assert not gatherer.is_pending("a")


def test_answers_and_measurements_are_told_apart_under_places_without_a_gap() -> None:
    gatherer = StreamBuffer()
    gatherer.begin("a", request())
    tell(gatherer, 0.0)
    gatherer.measure("a", "time_to_first_token_ms", 1.5)
    gatherer.add(delta("one", index=1))
    gatherer.add(delta("zero", index=0))
    entries = tell(gatherer, 0.0)
    assert [entry.type for entry in entries] == ["output", "output", "metric"]
    assert said(entries) == ["zero", "one"]
    assert [entry.place for entry in entries] == ["1000-1", "1000-2", "1000-3"]


def test_who_turns_out_to_be_anothers_is_named_and_can_be_dropped() -> None:
    gatherer = StreamBuffer()
    gatherer.begin("a", request())
    gatherer.begin("b", request("b"))
    due = gatherer.due(0.0)
    assert [lost.id for lost in gatherer.told(due, [BASE, None])] == ["b"]
    gatherer.drop("b")
    gatherer.add(delta("late", id="b", ends=True))
    assert gatherer.is_empty


def test_nothing_is_gathered_of_requests_that_nobody_follows() -> None:
    gatherer = StreamBuffer()
    gatherer.add(delta("Make", ends=True))
    gatherer.measure("a", "x", 1.0)
    assert gatherer.is_empty


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 0.05)), max_size=60))
def test_all_text_is_told_once_in_order_and_no_two_outputs_of_a_request_too_soon(
    steps: list[tuple[str, float]],
) -> None:
    gatherer, now_s = StreamBuffer(), 0.0
    told: dict[str, list[str]] = {"a": [], "b": []}
    times: dict[str, list[float]] = {"a": [], "b": []}
    for id in "ab":
        gatherer.begin(id, request(id))
    tell(gatherer, now_s)
    for number, (id, pause_s) in enumerate(steps):
        now_s += pause_s
        gatherer.add(delta(f"{number} ", id=id))
        for entry in tell(gatherer, now_s):
            told[entry.id] += said([entry])
            times[entry.id].append(now_s)
    for id in "ab":
        gatherer.add(delta("end", id=id, ends=True))
    for entry in tell(gatherer, now_s):
        told[entry.id] += said([entry])
    for id in "ab":
        expected = "".join(f"{number} " for number, (of, _) in enumerate(steps) if of == id)
        assert "".join(told[id]) == expected + "end"
        assert all(later - sooner > STREAM_INTERVAL_S - 1e-9 for sooner, later in pairwise(times[id]))
