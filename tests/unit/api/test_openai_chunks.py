"""The chunks of a stream contain the text once and in order, whichever events are lost or repeated."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.api.openai.chunks import Chunks, usage_chunk
from windrow.errors import AttemptsExhausted
from windrow.scheduler.queue.events import Event

HEAD = {"id": "x", "created": 1, "model": "m"}


def events(*outputs: object, ms: int = 1) -> list[Event]:
    """Events of one attempt, with texts of choice 0 or whole outputs; ``None`` is a lost event."""
    stream = [Event(f"{ms}-0", "start" if ms == 1 else "restart", b'{"attempt":1}')]
    for number, output in enumerate(outputs, 1):
        if output is not None:
            data = {"index": 0, "text": output, "tokens": 1} if isinstance(output, str) else output
            stream.append(Event(f"{ms}-{number}", "output", orjson.dumps(data)))
    return stream


def end(text: str, **more: object) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cached_tokens": 0}
    return {"text": text, "finish_reason": "stop", "usage": usage} | more


def play(stream: Chunks, received: list[Event], output: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk for event in received for chunk in stream.from_event(event)] + stream.from_output(output)


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)


def test_a_chat_starts_with_the_role_and_ends_with_the_finish_reason() -> None:
    chunks = play(Chunks("chat", HEAD, 0, 1), events("dry", " hay"), end("dry hay"))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""}, {"content": "dry"}, {"content": " hay"}, {},
    ]  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)


def test_an_empty_answer_has_a_role_and_a_finish_reason() -> None:
    chunks = play(Chunks("chat", HEAD, 0, 1), events(), end(""))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": ""}, {}]


def test_chunks_of_a_completion_have_text_and_a_null_usage_before_the_last() -> None:
    chunks = play(Chunks("completion", HEAD, 3, 1, includes_usage=True), events("dry"), end("dry"))
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for chunk in chunks] == [(3, "dry"), (3, "")]
    assert [chunk["usage"] for chunk in chunks] == [None, None]
    last = usage_chunk("completion", HEAD, [end("dry")])
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 3)


def test_choices_have_their_own_text_and_finish_reason() -> None:
    pieces = [{"index": 1, "text": "b", "tokens": 1}, {"index": 0, "text": "a", "tokens": 1}]
    choices = [
        {"index": 0, "text": "a", "finish_reason": "stop"},
        {"index": 1, "text": "b!", "finish_reason": "length"},
    ]
    chunks = play(Chunks("chat", HEAD, 0, 2), events(*pieces), end("a", choices=choices))
    assert (text_of(chunks, 0), text_of(chunks, 1)) == ("a", "b!")
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"][0]["finish_reason"]] == ["stop", "length"]


def test_every_log_probability_is_sent_once() -> None:
    entries = [{"token": token, "logprob": -1.0, "bytes": [], "top_logprobs": []} for token in "abc"]
    pieces = [{"index": 0, "text": "ab", "tokens": 2, "logprobs": entries[:2]}]
    received = events(*pieces) + events({"index": 0, "text": "a", "tokens": 1, "logprobs": entries[:1]}, ms=2)
    chunks = play(Chunks("chat", HEAD, 0, 1), received, end("abc", logprobs=entries))
    sent = [choice["logprobs"]["content"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert [entry["token"] for content in sent for entry in content] == ["a", "b", "c"]
    in_columns = play(Chunks("completion", HEAD, 0, 1), received, end("abc", logprobs=entries))
    offsets = [c["choices"][0]["logprobs"]["text_offset"] for c in in_columns if c["choices"][0]["logprobs"]]
    assert offsets == [[0, 1], [2]]


@given(st.text(max_size=30), st.data())
def test_another_attempt_with_the_same_text_continues_the_stream(text: str, data: st.DataObject) -> None:
    def cut(piece: str) -> list[str]:
        places = sorted(data.draw(st.lists(st.integers(0, len(piece)), max_size=5)))
        return [piece[a:b] for a, b in zip([0, *places], [*places, len(piece)], strict=True)]

    received: list[Event] = []
    for ms in range(1, 4):
        reached = text[: data.draw(st.integers(0, len(text)))]
        received += events(*cut(reached), ms=ms)
    assert text_of(play(Chunks("completion", HEAD, 0, 1), received, end(text))) == text


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1), st.data())
def test_lost_events_are_made_up_for_by_the_last_chunk(pieces: list[str], data: st.DataObject) -> None:
    kept = [piece if data.draw(st.booleans()) else None for piece in pieces]
    whole = "".join(pieces)
    assert text_of(play(Chunks("chat", HEAD, 0, 1), events(*kept), end(whole))) == whole


def test_another_attempt_with_another_text_ends_the_stream() -> None:
    stream = Chunks("chat", HEAD, 0, 1)
    with pytest.raises(AttemptsExhausted, match="the next attempt generated another text"):
        play(stream, events("dry hay") + events("wet", ms=2), end("wet hay"))
    assert stream.choices[0].sent == "dry hay"
