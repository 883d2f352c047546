"""One generated answer as its reader sees it: when its first token came, and how far apart the others were."""

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
    """Takes up the events of one stream; ``sent_s`` is when it was asked for, `time.perf_counter`."""

    def __init__(self, sent_s: float) -> None:
        self._sent_s = sent_s
        self._first_s: float | None = None
        self._last_s = 0.0
        #: Tokens of the first choice behind those that came first.
        self._tokens = 0
        self.prediction: Prediction | None = None

    def take(self, event: StreamEvent, now_s: float) -> None:
        """Note when the event came; of several choices, those of the first."""
        if event.type == "restart":  # another worker begins anew
            self._first_s, self._tokens = None, 0
        elif event.type == "output" and event.data["index"] == 0 and event.data["tokens"]:
            if self._first_s is None:
                self._first_s = now_s
            else:
                self._tokens += event.data["tokens"]
            self._last_s = now_s
        self.prediction = event.prediction or self.prediction

    def metrics(self) -> dict[str, Any]:
        """Those of the prediction, with times as they were seen here. Raises `ClientError` where it did not succeed."""
        if self.prediction is None:
            raise RequestRefused("the stream ended before the answer did", code="bad_answer")
        made = measured(self.prediction.metrics, self.prediction.result())
        if self._first_s is not None:
            made["ttft_ms"] = (self._first_s - self._sent_s) * 1e3
        if self._first_s is not None and self._tokens:
            made["itl_ms"] = (self._last_s - self._first_s) * 1e3 / self._tokens
        return made


async def read_stream(response: httpx.Response, sent_s: float) -> dict[str, Any]:
    """Read a streamed answer to its end. Raises `ClientError`, and `httpx.TransportError` where it breaks off."""
    if response.status_code != 200:
        refused = read_error(Reply(response.status_code, await response.aread()))
        assert refused is not None
        raise refused
    parser, reader = EventParser(), Reader(sent_s)
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            reader.take(event, time.perf_counter())
    return reader.metrics()
