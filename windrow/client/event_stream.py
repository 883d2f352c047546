"""The event streams of both clients without I/O: a parser of server-sent events, and the reconnection of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson

from windrow.client.prediction import Prediction
from windrow.client.protocol import HttpCall, NoReply, Reply, backoff_s, may_retry, read_error, read_prediction
from windrow.errors import RequestRefused

#: The events that end a stream; their data is the prediction.
LAST = frozenset({"completed", "error"})
#: Largest event that is read. A server that never ends an event must not fill the client's memory.
MAX_EVENT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event: ``start``, ``restart``, ``output`` or ``metric``, and finally ``completed`` or ``error``.

    ``restart`` cancels all output before it: another worker generates the answer again from its start.
    """

    type: str
    data: Mapping[str, Any]
    #: Position of the event in the stream; None if it has none.
    id: str | None = None

    @property
    def text(self) -> str:
        """Text that an ``output`` event appends to completion number ``data["index"]``; empty for other events."""
        return str(self.data.get("text", "")) if self.type == "output" else ""

    @property
    def prediction(self) -> Prediction | None:
        """The finished prediction of the last event; None for other events."""
        return read_prediction(self.data) if self.type in LAST and "status" in self.data else None


class EventParser:
    """Parses an event stream as the HTML standard describes it, with lines that end in LF or CR LF."""

    def __init__(self) -> None:
        self._line = b""
        self._fields: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Return the events that ``chunk`` completes.

        Raises `RequestRefused` if an event has other data than JSON or is larger than `MAX_EVENT_BYTES`.
        """
        *lines, self._line = (self._line + chunk).split(b"\n")
        events = [event for line in lines if (event := self._read(line.removesuffix(b"\r"))) is not None]
        if len(self._line) + sum(map(len, self._fields.values())) > MAX_EVENT_BYTES:
            raise RequestRefused(f"the event stream has an event above {MAX_EVENT_BYTES} bytes", code="bad_answer")
        return events

    def _read(self, line: bytes) -> StreamEvent | None:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data" and b"data" in self._fields:
                value = self._fields[b"data"] + b"\n" + value
            if name in (b"event", b"data", b"id"):
                self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        if b"data" not in fields:
            return None
        id = fields.get(b"id")
        try:
            data = orjson.loads(fields[b"data"])
        except orjson.JSONDecodeError:
            raise RequestRefused(
                "the event stream does not belong to a prediction; is this a Windrow server?", code="bad_answer"
            ) from None
        return StreamEvent(fields.get(b"event", b"message").decode(), data, None if id is None else id.decode())


class Stream:
    """One stream from its submit to its last event, over as many connections as necessary.

    The client sends `call`, reports the connection by `connected`, `feed` and `disconnected`, and waits ``pause_s``
    before the next call.
    """

    def __init__(self, request: Mapping[str, Any] | None, idempotency_key: str | None, id: str | None = None) -> None:
        self.is_over = False
        self.pause_s = 0.0
        self._request = request
        self._key = idempotency_key or uuid4().hex
        self._id = id
        self._last_event_id: str | None = None
        self._parser = EventParser()
        self._failures = 0

    def call(self) -> HttpCall:
        """Return the next request: the submit until the server has answered it once, then the events."""
        headers = {"Accept": "text/event-stream"}
        if self._last_event_id is not None:
            headers["Last-Event-ID"] = self._last_event_id
        if self._id is not None:
            return HttpCall("GET", f"/v1/predictions/{quote(self._id, safe='')}/events", headers=headers)
        return HttpCall("POST", "/v1/predictions", self._request, headers | {"Idempotency-Key": self._key})

    def connected(self, location: str | None) -> None:
        """Start reading a connection; ``location`` is the ``Location`` header."""
        self._parser = EventParser()
        if location:
            self._id = location.rpartition("/")[2]

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Return the events that ``chunk`` completes."""
        events = self._parser.feed(chunk)
        for event in events:
            self._failures, self._last_event_id = 0, event.id or self._last_event_id
            self.is_over = self.is_over or event.type in LAST
        return events

    def disconnected(self, reply: Reply | NoReply | None) -> None:
        """Handle the end of a connection; ``reply`` is a refusal, or None if the stream was interrupted.

        Raises `ClientError` if another attempt is useless.
        """
        if self.is_over:
            return
        self._failures += 1
        if isinstance(reply, Reply) and reply.status == 204:
            self.is_over = True
            return
        outcome = reply or NoReply("the event stream was interrupted repeatedly", was_sent=True)
        error = read_error(outcome)
        assert error is not None
        if not may_retry(self.call(), outcome, self._failures):
            raise error
        self.pause_s = backoff_s(self._failures) if error.retry_after_s is None else error.retry_after_s
