"""One call of an OpenAI-compatible server: sent, sent again while the server is busy or away, read chunk by chunk."""

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

#: To connect, and between two pieces of an answer, in seconds. A busy server may let a request wait long for the first.
CONNECT_S, SILENCE_S = 10.0, 300.0
#: How long a request is sent again before it fails, in seconds.
GIVE_UP_S = 120.0
#: Of what the server said of an error, so many characters are told on.
TOLD_CHARACTERS = 500

#: Statuses that no request is to blame for: the key is wrong, or the model's name, or the path in ``url``.
UNUSABLE = frozenset({401, 403, 404, 405})
#: How OpenAI and llama.cpp name a prompt that is too long; others only say so. A tuple, for a name may be anything.
TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
#: A server that never ends a line must not fill the worker's memory; the longest chunks are some kilobytes.
MOST_LINE_BYTES = 16 << 20

Json = dict[str, Any]


class TransientFailure(Exception):
    """The server did not take the request, and may take it later."""

    def __init__(self, said: str, after_s: float | None) -> None:
        super().__init__(said)
        self.after_s = after_s


async def stream_chunks(
    client: httpx.AsyncClient, path: str, body: Json, on_sent: Callable[[], None], on_refused: Callable[[], None]
) -> AsyncGenerator[Json, None]:
    """Yield the chunks of the answer; ``on_sent`` is told of each try, ``on_refused`` of each that was turned away.

    Raises a `WindrowError`: `InvalidInput` for what the server calls invalid, `ModelUnusable` where it knows neither
    us nor the model, `UpstreamFailed` for all else.
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
        except httpx.DecodingError as error:  # it is answered, and would be like this again
            raise UpstreamFailed(f"the server behind this model sent what cannot be decoded: {error}") from None
        except (TransientFailure, httpx.TransportError) as error:
            said = str(error) if isinstance(error, TransientFailure) else f"{type(error).__name__}"
            if has_begun:  # it may have been read already, and would come twice
                raise UpstreamFailed(f"the server behind this model broke off its answer ({said})") from None
            on_refused()
            after_s = error.after_s if isinstance(error, TransientFailure) else None
            spent_s = time.monotonic() - began_s
            pause_s = retry_pause_s(tries, spent_s, GIVE_UP_S, random.random(), after_s)
            if pause_s is None:
                raise UpstreamFailed(
                    f"the server behind this model did not take the request in {tries} tries ({said})"
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
                raise _told_error(chunk)
            yield chunk


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Lines as the HTML standard has them in event streams: CR, LF or both end one, and nothing that Unicode adds."""
    rest = bytearray()
    async for piece in response.aiter_bytes():
        rest += piece
        if b"\n" in piece or b"\r" in piece:
            lines = rest.splitlines(keepends=True)
            rest = bytearray() if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
            for line in lines:
                yield bytes(line)
        if len(rest) > MOST_LINE_BYTES:
            raise UpstreamFailed(f"the server behind this model sent a line of more than {MOST_LINE_BYTES} bytes")
    yield bytes(rest)


def _read(data: bytes) -> Json:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("the server behind this model sent what is not JSON") from None
    if not isinstance(chunk, dict):
        raise UpstreamFailed("the server behind this model sent what is no chunk")
    return chunk


def _error(response: httpx.Response, content: bytes) -> TransientFailure | WindrowError:
    said = read_json(content)
    status, words = response.status_code, _message(said)
    if status in TEMPORARY_STATUSES:
        return TransientFailure(f"status {status}: {words}", retry_after_s(response.headers.get("Retry-After")))
    if status in UNUSABLE:
        return ModelUnusable(f"the server behind this model refused us with status {status}: {words}")
    if response.next_request is not None:
        to = response.next_request.url
        return UpstreamFailed(
            f"the server behind this model redirects to {to.scheme}://{to.netloc.decode()} (status {status}); "
            "the model's url has to name the server itself"
        )
    if 400 <= status < 500:
        kind = InputTooLong if _is_too_long(said) or "context length" in words else InvalidInput
        return kind(f"the server behind this model refused it with status {status}: {words}")
    return UpstreamFailed(f"the server behind this model failed with status {status}: {words}")


def read_json(content: bytes) -> Any:
    """What an answer in one piece says; a text where it is not JSON."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode(errors="replace")


def _told_error(chunk: Json) -> WindrowError:
    """What a chunk tells in place of an answer."""
    if _is_too_long(chunk):
        return InputTooLong(f"the server behind this model refused it: {_message(chunk)}")
    return UpstreamFailed(f"the server behind this model failed: {_message(chunk)}")


def _is_too_long(said: Any) -> bool:
    """Whether an error names itself as that of a prompt with no room in the model's context."""
    error = said.get("error") if isinstance(said, dict) else None
    named = [part.get(name) for part in (said, error) if isinstance(part, dict) for name in ("code", "type")]
    return any(name in TOO_LONG for name in named)


def _message(said: Any) -> str:
    """What stands in the many shapes of error bodies."""
    error = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:TOLD_CHARACTERS] or "no reason given"


def retry_after_s(header: str | None) -> float | None:
    """Seconds that ``Retry-After`` asks for; None for a date, which is some proxy's, and for nonsense."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
