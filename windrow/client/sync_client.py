"""`Client`: Windrow over HTTP, blocking."""

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
    """Talks to one server; may be shared by threads. Close it, or use it in a ``with``.

    ``api_key`` is ``WINDROW_API_KEY`` of the environment where it is not given.
    ``timeout_s`` bounds one call with its retries, beyond the time that it was asked to wait. Every method raises the
    errors of `windrow.errors`. What is sent again after a lost connection, 429 or 503 cannot be done twice: a submit
    carries an ``Idempotency-Key``, yours or one made here.
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
        """Submit and follow to the end, for at most ``wait_s``; then it is returned as it is, to `wait` for again."""
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
        """Queue one request and return at once; with ``stream``, `follow` has its output piece by piece."""
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
        """Queue up to 1000 inputs in one call, all or none; the answer is in input order."""
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
        """Submit, and yield what comes of it as it comes; the last event has the prediction.

        A connection that breaks is opened again, and the stream goes on where it was.
        """
        request = build_request(model, input=input, parameters=parameters, priority=priority, deadline_ms=deadline_ms)
        yield from self._stream(Stream(request, idempotency_key))

    def follow(self, id: str) -> Iterator[StreamEvent]:
        """Yield the events of a prediction submitted with ``stream``, from the first on; of any other, the last."""
        yield from self._stream(Stream(None, None, id))

    def get(self, id: str, wait_s: float | None = None) -> Prediction:
        """Ask once; the server answers at the end of the prediction, or after ``wait_s`` (at most 60)."""
        return self._run(self._flows.get(id, wait_s))

    def wait(self, id: str, timeout_s: float = 60.0) -> Prediction:
        """Follow to the end, for at most ``timeout_s``; then it is returned as it is."""
        return self._run(self._flows.wait(id, timeout_s))

    def cancel(self, id: str) -> Prediction:
        """Cancel; a prediction that has ended is returned as it is."""
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
                        stream.opened(response.headers.get("Location"))
                        for chunk in response.iter_bytes():
                            yield from stream.feed(chunk)
                    else:
                        response.read()
                        reply = to_reply(response)
            except httpx.TransportError as error:
                reply = to_no_reply(error, self._http.base_url)
            stream.broke(reply)
            if not stream.is_over:
                time.sleep(stream.pause_s)

    def _run(self, flow: Flow[T]) -> T:
        answer: Reply | NoReply | None = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._do(step)

    def _do(self, step: HttpCall | Sleep) -> Reply | NoReply | None:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        try:
            return to_reply(self._http.request(**request_options(step, self._timeout_s)))
        except httpx.TransportError as error:
            return to_no_reply(error, self._http.base_url)
