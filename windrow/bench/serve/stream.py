"""Client-side timing of a streamed answer: time to first token, and time between tokens."""

from __future__ import annotations

import time
from typing import Any

import httpx

from windrow.bench.latency_parts import measured
from windrow.client.event_stream import EventParser, StreamEvent
from windrow.client.prediction import Prediction
from windrow.client.protocol import Reply, read_error
from windrow.errors import RequestRefused


class Reader:
    """Times the events of one stream; ``sent_s`` is the time of the request (`time.perf_counter`)."""

    def __init__(self, sent_s: float) -> None:
        self._sent_s = sent_s
        self._first_s: float | None = None
        self._last_s = 0.0
        #: Tokens of the first choice after its first output.
        self._tokens = 0
        self.prediction: Prediction | None = None

    def take(self, event: StreamEvent, now_s: float) -> None:
        """Record the arrival of an event; of several choices only the first counts."""
        if event.type == "restart":  # another worker starts again from the beginning
            self._first_s, self._tokens = None, 0
        elif event.type == "output" and event.data["index"] == 0 and event.data["tokens"]:
            if self._first_s is None:
                self._first_s = now_s
            else:
                self._tokens += event.data["tokens"]
            self._last_s = now_s
        self.prediction = event.prediction or self.prediction

    def metrics(self) -> dict[str, Any]:
        """Return the prediction's metrics with the times measured here; raises `ClientError` if it did not succeed."""
        if self.prediction is None:
            raise RequestRefused("the stream ended before the answer was complete", code="bad_answer")
        made = measured(self.prediction.metrics, self.prediction.result())
        if self._first_s is not None:
            made["ttft_ms"] = (self._first_s - self._sent_s) * 1e3
        if self._first_s is not None and self._tokens:
            made["itl_ms"] = (self._last_s - self._first_s) * 1e3 / self._tokens
        return made


async def read_stream(response: httpx.Response, sent_s: float) -> dict[str, Any]:
    """Read a streamed answer to its end; raises `ClientError`, and `httpx.TransportError` if the stream breaks off."""
    if response.status_code != 200:
        refused = read_error(Reply(response.status_code, await response.aread()))
        assert refused is not None
        raise refused
    parser, reader = EventParser(), Reader(sent_s)
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            reader.take(event, time.perf_counter())
    return reader.metrics()
