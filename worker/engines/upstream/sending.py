"""Calls an OpenAI-compatible server, retries while it is busy or unreachable, and reads the answer chunk by chunk.

The event stream is read here and not by a library, because none of them limits the length of a line.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import orjson

from windrow.errors import InputTooLong, InvalidInput, ModelUnusable, UpstreamFailed, WindrowError
from windrow.scheduler.core.upstream_retry import TEMPORARY_STATUSES, retry_pause_s

#: Timeouts to connect, and between two chunks, in seconds. A busy server may let a request wait long for the first one.
CONNECT_S, SILENCE_S = 10.0, 300.0
#: Time after which a request is not retried any more, in seconds.
GIVE_UP_S = 120.0
#: Characters of the server's error message that are reported.
MAX_ERROR_CHARACTERS = 500

#: Statuses that the configuration causes and not the request: a wrong key, model name or path in ``url``.
UNUSABLE = frozenset({401, 403, 404, 405})
#: Error codes of OpenAI and llama.cpp for a prompt that is too long; others have a message only. A tuple, because the
#: codes that are compared with it may be unhashable.
TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
#: Maximum length of a line, so that a broken server cannot fill the memory. The longest chunks have some kilobytes.
MAX_LINE_BYTES = 16 << 20

Json = dict[str, Any]


class TransientFailure(Exception):
    """The server refused the request, but may accept it later."""

    def __init__(self, reason: str, after_s: float | None) -> None:
        super().__init__(reason)
        self.after_s = after_s


async def stream_chunks(
    client: httpx.AsyncClient, path: str, body: Json, on_sent: Callable[[], None], on_refused: Callable[[], None]
) -> AsyncGenerator[Json, None]:
    """Yield the chunks of the answer; call ``on_sent`` before each try and ``on_refused`` after each refused one.

    Raises `InvalidInput` if the server calls the request invalid, `ModelUnusable` if it refuses the key or the model,
    and `UpstreamFailed` otherwise.
    """
    began_s, tries = time.monotonic(), 0
    while True:
        tries += 1
        has_begun = False
        on_sent()
        try:
            async with aclosing(_chunks(client, path, body)) as chunks:
                async for chunk in chunks:
                    has_begun = True
                    yield chunk
            return
        except httpx.DecodingError as error:  # a retry would give the same answer
            raise UpstreamFailed(f"the upstream server sent data that cannot be decoded: {error}") from None
        except (TransientFailure, httpx.TransportError) as error:
            reason = str(error) if isinstance(error, TransientFailure) else type(error).__name__
            if has_begun:  # a client may have read the beginning already
                raise UpstreamFailed(f"the upstream server broke off its answer ({reason})") from None
            on_refused()
            after_s = error.after_s if isinstance(error, TransientFailure) else None
            spent_s = time.monotonic() - began_s
            pause_s = retry_pause_s(tries, spent_s, GIVE_UP_S, random.random(), after_s)
            if pause_s is None:
                raise UpstreamFailed(
                    f"the upstream server did not accept the request in {tries} tries ({reason})"
                ) from None
        await asyncio.sleep(pause_s)


async def _chunks(client: httpx.AsyncClient, path: str, body: Json) -> AsyncGenerator[Json, None]:
    headers = {"Accept": "text/event-stream"}
    async with client.stream("POST", path.lstrip("/"), json=body, headers=headers) as response:
        if response.status_code != 200:
            raise _error(response, await response.aread())
        async for line in _lines(response):
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            chunk = _read(data)
            if chunk.get("error"):
                raise _error_in_chunk(chunk)
            yield chunk


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield lines as the HTML standard defines them for event streams: they end with CR, LF or both."""
    rest = bytearray()
    async for data in response.aiter_bytes():
        rest += data
        if b"\n" in data or b"\r" in data:
            lines = rest.splitlines(keepends=True)
            rest = bytearray() if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
            for line in lines:
                yield bytes(line)
        if len(rest) > MAX_LINE_BYTES:
            raise UpstreamFailed(f"the upstream server sent a line of more than {MAX_LINE_BYTES} bytes")
    yield bytes(rest)


def _read(data: bytes) -> Json:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("the upstream server sent invalid JSON") from None
    if not isinstance(chunk, dict):
        raise UpstreamFailed("the upstream server sent a chunk that is not an object")
    return chunk


def _error(response: httpx.Response, content: bytes) -> TransientFailure | WindrowError:
    body = read_json(content)
    status, message = response.status_code, _message(body)
    if status in TEMPORARY_STATUSES:
        return TransientFailure(f"status {status}: {message}", retry_after_s(response.headers.get("Retry-After")))
    if status in UNUSABLE:
        return ModelUnusable(f"the upstream server refused the key, model or path with status {status}: {message}")
    if response.next_request is not None:
        target = response.next_request.url
        return UpstreamFailed(
            f"the upstream server redirects to {target.scheme}://{target.netloc.decode()} (status {status}); "
            "set the model's url to that server"
        )
    if 400 <= status < 500:
        kind = InputTooLong if _is_too_long(body) or "context length" in message else InvalidInput
        return kind(f"the upstream server refused the request with status {status}: {message}")
    return UpstreamFailed(f"the upstream server failed with status {status}: {message}")


def read_json(content: bytes) -> Any:
    """Return the JSON value of a response body, or its text if it is not JSON."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode(errors="replace")


def _error_in_chunk(chunk: Json) -> WindrowError:
    """Return the error in a chunk."""
    if _is_too_long(chunk):
        return InputTooLong(f"the upstream server refused the request: {_message(chunk)}")
    return UpstreamFailed(f"the upstream server failed: {_message(chunk)}")


def _is_too_long(body: Any) -> bool:
    """Return whether the code of an error means that the prompt does not fit the model's context."""
    error = body.get("error") if isinstance(body, dict) else None
    codes = [part.get(name) for part in (body, error) if isinstance(part, dict) for name in ("code", "type")]
    return any(code in TOO_LONG for code in codes)


def _message(body: Any) -> str:
    """Return the message in the many formats of error bodies."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:MAX_ERROR_CHARACTERS] or "no reason given"


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds in ``Retry-After``; None for a date and for invalid values."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
