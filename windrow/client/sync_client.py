# Generated from async_client.py by tools/make_sync_client.py; edit that file and run the tool.
"""`Client`: a Windrow server over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from windrow.client.event_stream import Stream, StreamEvent
from windrow.client.prediction import Prediction
from windrow.client.protocol import Flow, Flows, HttpCall, NoReply, Reply, Sleep, build_request
from windrow.client.transport import DEFAULT_URL, client_options, request_options, to_no_reply, to_reply

T = TypeVar("T")


class Client:
    """A client of one server, which threads may share. Close it, or use it with ``with``.

    ``api_key`` defaults to the variable ``WINDROW_API_KEY``. ``timeout_s`` limits one call with its retries, beyond the
    time that the call asks the server to wait. Every method raises the errors of `windrow.errors`. A retry after a lost
    connection, 429 or 503 never runs a request twice: a submit carries an ``Idempotency-Key``, yours or a new one.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout_s: float = 60.0,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._http = httpx.Client(**client_options(base_url, timeout_s, api_key), transport=transport)
        self._flows = Flows(timeout_s, time.monotonic)

    def predict(
        self,
        model: str,
        input: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        priority: str = "normal",
        deadline_ms: float | None = None,
        wait_s: float = 60.0,
        idempotency_key: str | None = None,
    ) -> Prediction:
        """Submit one request and wait up to ``wait_s`` for its result; return the unfinished prediction after that."""
        request = build_request(model, input=input, parameters=parameters, priority=priority, deadline_ms=deadline_ms)
        return self._run(self._flows.predict(request, idempotency_key, wait_s))

    def submit(
        self,
        model: str,
        input: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        priority: str = "normal",
        deadline_ms: float | None = None,
        stream: bool = False,
        idempotency_key: str | None = None,
    ) -> Prediction:
        """Queue one request and return at once; with ``stream``, `follow` yields its output while it is generated."""
        request = build_request(
            model, input=input, parameters=parameters, priority=priority, deadline_ms=deadline_ms, stream=stream
        )
        return self._run(self._flows.submit(request, idempotency_key))

    def submit_many(
        self,
        model: str,
        inputs: Sequence[Any],
        *,
        parameters: Mapping[str, Any] | None = None,
        priority: str = "normal",
        deadline_ms: float | None = None,
    ) -> list[Prediction]:
        """Queue up to 1000 inputs in one call, all or none; return their predictions in input order."""
        request = build_request(
            model, inputs=list(inputs), parameters=parameters, priority=priority, deadline_ms=deadline_ms
        )
        return self._run(self._flows.submit_many(request))

    def stream(
        self,
        model: str,
        input: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        priority: str = "normal",
        deadline_ms: float | None = None,
        idempotency_key: str | None = None,
    ) -> Iterator[StreamEvent]:
        """Submit one request and yield its events; the last event carries the prediction.

        A lost connection is opened again, and the stream resumes after the last event received.
        """
        request = build_request(model, input=input, parameters=parameters, priority=priority, deadline_ms=deadline_ms)
        yield from self._stream(Stream(request, idempotency_key))

    def follow(self, id: str) -> Iterator[StreamEvent]:
        """Yield all events of a prediction that was submitted with ``stream``, or the last event of any other."""
        yield from self._stream(Stream(None, None, id))

    def get(self, id: str, wait_s: float | None = None) -> Prediction:
        """Return the prediction; with ``wait_s`` (at most 60), the server waits that long for it to finish."""
        return self._run(self._flows.get(id, wait_s))

    def wait(self, id: str, timeout_s: float = 60.0) -> Prediction:
        """Wait up to ``timeout_s`` for the result; return the unfinished prediction after that."""
        return self._run(self._flows.wait(id, timeout_s))

    def cancel(self, id: str) -> Prediction:
        """Cancel the prediction; return a finished prediction unchanged."""
        return self._run(self._flows.cancel(id))

    def models(self) -> list[dict[str, Any]]:
        """List the models, as ``GET /v1/models`` describes them."""
        return self._run(self._flows.models())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, stream: Stream) -> Iterator[StreamEvent]:
        while not stream.is_over:
            reply: Reply | NoReply | None = None
            try:
                with self._http.stream(**request_options(stream.call(), self._timeout_s)) as response:
                    if response.status_code == 200:
                        stream.connected(response.headers.get("Location"))
                        for chunk in response.iter_bytes():
                            yield from stream.feed(chunk)
                    else:
                        response.read()
                        reply = to_reply(response)
            except httpx.TransportError as error:
                reply = to_no_reply(error, self._http.base_url)
            stream.disconnected(reply)
            if not stream.is_over:
                time.sleep(stream.pause_s)

    def _run(self, flow: Flow[T]) -> T:
        reply: Reply | NoReply | None = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                return end.value
            reply = self._do(step)

    def _do(self, step: HttpCall | Sleep) -> Reply | NoReply | None:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        try:
            return to_reply(self._http.request(**request_options(step, self._timeout_s)))
        except httpx.TransportError as error:
            return to_no_reply(error, self._http.base_url)
