"""Parsers of the request headers that change a call."""

import pytest
from werkzeug.exceptions import NotAcceptable

from windrow.api.http import headers
from windrow.errors import MalformedRequest


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("", None),
        ("wait", 60),
        ("wait=0", 0),
        ("wait=60", 60),
        ("Wait = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=10", 10),
        ("respond-async", None),
        ("wait=3; unit=s", 3),
        ("waiting=5", None),
    ],
)
def test_prefer_wait_is_a_number_of_seconds(header: str | None, wait_s: int | None) -> None:
    assert headers.parse_prefer(header) == wait_s


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("wait=5", False),
        ("cancel-on-disconnect", True),
        ("wait=5, Cancel-On-Disconnect", True),
        ("cancel-on-disconnect; by=me,wait", True),
        ("cancel-on-disconnect-not", False),
        ('wait="cancel-on-disconnect"', False),
    ],
)
def test_prefer_cancel_on_disconnect_is_recognized(header: str | None, expected: bool) -> None:
    assert headers.parse_cancel_on_disconnect(header) is expected


@pytest.mark.parametrize(
    "header", ["wait=", "wait=x", "wait=-1", "wait=61", "wait=1.5", "wait=9999999999", "wait=\u0663"]
)
def test_a_malformed_wait_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest, match="from 0 to 60"):
        headers.parse_prefer(header)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("1m", 60), ("30s", 30), ("500ms", 0.5), ("1h30m", 5400), ("1m30s", 90), ("90", 90), (" 5s ", 5)],
)
def test_cancel_after_takes_durations(header: str | None, seconds: float | None) -> None:
    assert headers.parse_cancel_after(header) == seconds


@pytest.mark.parametrize("header", ["", " ", "0s", "0", "-1s", "1x", "1s1m", "1.5s", "m", "1 m", "8000h", "\u0663s"])
def test_a_malformed_cancel_after_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest, match="Cancel-After"):
        headers.parse_cancel_after(header)


@pytest.mark.parametrize("key", [None, "a", "x" * 255, "!~"])
def test_an_idempotency_key_of_visible_ascii_is_accepted(key: str | None) -> None:
    assert headers.parse_idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\x00", "\u00e9"])
def test_any_other_idempotency_key_is_refused(key: str) -> None:
    with pytest.raises(MalformedRequest, match="Idempotency-Key"):
        headers.parse_idempotency_key(key)


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/event-stream, application/json;q=0.5"])
def test_a_client_that_accepts_json_is_not_refused(accept: str | None) -> None:
    headers.refuse_event_stream(accept)


@pytest.mark.parametrize("accept", ["text/event-stream", "Text/Event-Stream;q=1"])
def test_a_client_that_accepts_only_an_event_stream_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        headers.refuse_event_stream(accept)
