"""The load of ``windrow bench serve`` and ``sweep``: HTTP requests at a rate (open loop) or from users (closed loop).

In the open loop each request is sent when it is due, and its latency counts from then, so that a slow server does not
slow its clients down. A load generator that is late itself shows in `Answer.sent_s`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from windrow.bench.dataset import Item
from windrow.bench.latency_parts import measured
from windrow.bench.serve.stream import read_stream
from windrow.client.protocol import MAX_WAIT_S, HttpCall, build_request, read_error, read_prediction
from windrow.client.transport import DEFAULT_URL, client_options, request_options, to_no_reply, to_reply
from windrow.errors import ClientError

TIMEOUT_S = 30.0
#: Keep-alive time in seconds; shorter than a server's, so that the server does not close a connection in use.
KEEPALIVE_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request; times in seconds from the start of the load."""

    #: When it was due, when it was sent, and when its answer was complete.
    due_s: float
    sent_s: float
    ended_s: float
    #: ``code: detail``; None if it succeeded.
    error: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latency_s(self) -> float:
        """Time from when it was due to its complete answer."""
        return self.ended_s - self.due_s

    @property
    def answered_s(self) -> float:
        """Time from when it was due to its first token, or to the complete answer if it was not streamed."""
        ttft_ms = self.metrics.get("ttft_ms")
        return self.latency_s if ttft_ms is None else self.sent_s - self.due_s + ttft_ms / 1e3


#: Sends one request and waits for its result; returns its metrics or raises `ClientError`.
Ask = Callable[[Item], Awaitable[Mapping[str, Any]]]


class Server:
    """One model of the server at ``url`` (by default the local one); an asynchronous context manager."""

    def __init__(self, url: str, model: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)
        options = client_options(url or DEFAULT_URL, TIMEOUT_S, None) | {"limits": limits}
        self._http = httpx.AsyncClient(**options, transport=transport)
        self._model = model

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, item: Item) -> Mapping[str, Any]:
        """Send one prediction, without retries, because refusals are part of the result. See `Ask`."""
        request = self._request(item, {"Prefer": f"wait={MAX_WAIT_S}"})
        with self._unreachable():
            response = await self._http.send(request)
        if (refused := read_error(to_reply(response))) is not None:
            raise refused
        prediction = read_prediction(orjson.loads(response.content))
        return measured(prediction.metrics, prediction.result())

    async def follow(self, item: Item) -> Mapping[str, Any]:
        """Send one prediction to a model that generates, and read its stream."""
        request = self._request(item, {"Accept": "text/event-stream"})
        sent_s = time.perf_counter()
        with self._unreachable():
            response = await self._http.send(request, stream=True)
            try:
                return await read_stream(response, sent_s)
            finally:
                await response.aclose()

    def _request(self, item: Item, headers: Mapping[str, str]) -> httpx.Request:
        body = build_request(
            self._model, input=item.input, parameters=item.parameters or None, priority="normal", deadline_ms=None
        )
        call = HttpCall("POST", "/v1/predictions", body, headers, hold_s=MAX_WAIT_S)
        return self._http.build_request(**request_options(call, TIMEOUT_S))

    @contextmanager
    def _unreachable(self) -> Iterator[None]:
        """Convert transport errors to `ClientError`."""
        try:
            yield
        except httpx.TransportError as error:
            problem = read_error(to_no_reply(error, self._http.base_url))
            assert problem is not None
            raise problem from None


async def at_times(ask: Ask, items: Iterable[Item], due_s: Sequence[float]) -> list[Answer]:
    """Send each item when it is due (open loop); returns the answers in the same order."""
    began_s = time.perf_counter()
    tasks = []
    for item, at_s in zip(items, due_s, strict=True):
        await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(_one(ask, item, began_s, at_s)))
    return list(await asyncio.gather(*tasks))


async def by_users(ask: Ask, items: Iterable[Item], users: int) -> list[Answer]:
    """Let each user send the next item when its last one is answered; returns the answers in order of completion."""
    began_s = time.perf_counter()
    left = iter(items)
    answers: list[Answer] = []

    async def user() -> None:
        for item in left:
            answers.append(await _one(ask, item, began_s, None))

    await asyncio.gather(*(user() for _ in range(users)))
    return answers


async def _one(ask: Ask, item: Item, began_s: float, due_s: float | None) -> Answer:
    sent_s = time.perf_counter() - began_s
    error, metrics = None, dict[str, Any]()
    try:
        metrics = dict(await ask(item))
    except ClientError as problem:
        error = f"{problem.code}: {problem.detail}"
    return Answer(sent_s if due_s is None else due_s, sent_s, time.perf_counter() - began_s, error, metrics)
