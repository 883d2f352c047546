"""Reads a request body: one JSON object of bounded size, within a bounded time."""

from __future__ import annotations

import re
from typing import Any

import orjson

from windrow.api.http.errors import CLOSE
from windrow.errors import MalformedRequest, PayloadTooLarge
from windrow.scheduler.core.json_types import json_type

#: Longest pause between two parts of a body, in seconds.
BODY_TIMEOUT_S = 10.0
JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json\s*(;.*)?", re.IGNORECASE)


def read_object(environ: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Return the request's body, a JSON object; raises `MalformedRequest` or `PayloadTooLarge`."""
    content_type = environ.get("CONTENT_TYPE") or ""
    if not JSON_TYPE.fullmatch(content_type):
        actual = f"not {content_type[:100]!r}" if content_type else "and this request has no Content-Type"
        raise MalformedRequest(f"the body must be JSON, sent with Content-Type: application/json, {actual}")
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise MalformedRequest("the body must not be compressed; send it without Content-Encoding")
    body = read_body(environ, max_bytes)
    if not body:
        raise MalformedRequest("the body is empty; it must be a JSON object")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedRequest(f"the body must be a JSON object, not {json_type(value)}")
    return value


def read_body(environ: dict[str, Any], max_bytes: int) -> bytes:
    """Read the whole body, which has a Content-Length or is chunked."""
    announced = _content_length(environ)
    if announced is None and not environ.get("wsgi.input_terminated"):
        return b""
    if announced is not None and announced > max_bytes:
        environ[CLOSE] = True
        raise PayloadTooLarge(f"the body has {announced} bytes; at most {max_bytes} are accepted")
    socket = environ.get("gunicorn.socket")
    if socket is not None:
        socket.settimeout(BODY_TIMEOUT_S)
    try:
        body: bytes = environ["wsgi.input"].read(max_bytes + 1 if announced is None else announced)
    # The server's reader raises various errors, from a timeout to an invalid chunk; none leaves a usable body.
    except Exception as error:
        environ[CLOSE] = True
        if isinstance(error, TimeoutError):
            raise MalformedRequest(
                f"the body is shorter than its Content-Length: no data arrived for {BODY_TIMEOUT_S:.0f} s"
            ) from None
        raise MalformedRequest(f"the body could not be read completely ({type(error).__name__})") from None
    finally:
        if socket is not None:
            socket.settimeout(None)
    if len(body) > max_bytes:
        environ[CLOSE] = True
        raise PayloadTooLarge(f"the body has more than the {max_bytes} bytes that are accepted")
    if announced is not None and len(body) < announced:
        environ[CLOSE] = True
        raise MalformedRequest(f"the body is shorter than its Content-Length: {len(body)} of {announced} bytes arrived")
    return body


def _content_length(environ: dict[str, Any]) -> int | None:
    text = environ.get("CONTENT_LENGTH") or ""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise MalformedRequest(f"Content-Length must be a number of bytes, not {text[:50]!r}")
    return int(text)
