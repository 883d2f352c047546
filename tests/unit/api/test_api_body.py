"""A request body is one JSON object of bounded size; anything else is refused."""

import io
from typing import Any

import pytest

from windrow.api.http.body import BODY_TIMEOUT_S, read_object
from windrow.api.http.errors import CLOSE
from windrow.errors import MalformedRequest, PayloadTooLarge


def environ(body: bytes, *, length: str | None = None, **more: Any) -> dict[str, Any]:
    content_length = str(len(body)) if length is None else length
    return {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": content_length, "wsgi.input": io.BytesIO(body)} | more


class Socket:
    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def settimeout(self, seconds: float | None) -> None:
        self.timeouts.append(seconds)


class Silent:
    def read(self, size: int) -> bytes:
        raise TimeoutError


class Broken:
    def read(self, size: int) -> bytes:
        raise RuntimeError("Invalid chunk size")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/x.y+json"]
)
def test_a_json_object_is_read(content_type: str) -> None:
    assert read_object(environ(b'{"a": [1, "\\u0000"]}', CONTENT_TYPE=content_type), 100) == {"a": [1, "\0"]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": Infinity}', "not JSON"),
        (b'{"a": 1e999}', "not JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"a": 1} {"b": 2}', "not JSON"),
        (b"[" * 50_000 + b"]" * 50_000, "depth"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "depth"),
        (b"[1]", "an array"),
        (b'"text"', "a string"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"7", "a number"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_anything_but_a_json_object_is_malformed(body: bytes, message: str) -> None:
    with pytest.raises(MalformedRequest, match=message):
        read_object(environ(body), 1_000_000)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_another_content_type_is_refused_with_its_name(content_type: str) -> None:
    with pytest.raises(MalformedRequest, match=r"application/json, (not|and)"):
        read_object(environ(b"{}", CONTENT_TYPE=content_type), 100)


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="compressed"):
        read_object(environ(b"{}", HTTP_CONTENT_ENCODING="gzip"), 100)


def test_a_body_as_large_as_the_limit_is_accepted() -> None:
    body = b'{"a":"' + b"x" * 92 + b'"}'
    assert len(body) == 100
    assert read_object(environ(body), 100)


def test_a_larger_body_is_refused_unread_and_its_connection_closes() -> None:
    request = environ(b"", length="101", **{"wsgi.input": Broken()})
    with pytest.raises(PayloadTooLarge, match="101"):
        read_object(request, 100)
    assert request[CLOSE]


def test_a_larger_chunked_body_is_refused() -> None:
    request = environ(b"x" * 5000, length="", **{"wsgi.input_terminated": True})
    with pytest.raises(PayloadTooLarge):
        read_object(request, 100)
    assert request["wsgi.input"].tell() == 101


def test_a_chunked_body_is_read() -> None:
    assert read_object(environ(b'{"a":1}', length="", **{"wsgi.input_terminated": True}), 100) == {"a": 1}


def test_a_body_without_content_length_or_chunks_is_not_read() -> None:
    with pytest.raises(MalformedRequest, match="empty"):
        read_object(environ(b'{"a":1}', length=""), 100)


def test_a_body_shorter_than_its_content_length_is_malformed() -> None:
    request = environ(b'{"a":1}', length="50")
    with pytest.raises(MalformedRequest, match="7 of 50 bytes"):
        read_object(request, 100)
    assert request[CLOSE]


def test_a_body_that_stops_arriving_is_malformed_after_the_timeout() -> None:
    socket = Socket()
    request = environ(b"", length="50", **{"wsgi.input": Silent(), "gunicorn.socket": socket})
    with pytest.raises(MalformedRequest, match="shorter than its Content-Length"):
        read_object(request, 100)
    assert socket.timeouts == [BODY_TIMEOUT_S, None]


def test_a_body_with_an_invalid_chunk_is_malformed() -> None:
    request = environ(b"", length="50", **{"wsgi.input": Broken()})
    with pytest.raises(MalformedRequest, match="could not be read"):
        read_object(request, 100)
    assert request[CLOSE]


@pytest.mark.parametrize("length", ["x", "-5", "1.5"])
def test_an_invalid_content_length_is_malformed(length: str) -> None:
    with pytest.raises(MalformedRequest, match="Content-Length"):
        read_object(environ(b"{}", length=length), 100)
