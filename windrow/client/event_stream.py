"""The client's side of event streams with no I/O in it: reading events, and going on where a connection broke off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson

from windrow.client.prediction import Prediction
from windrow.client.protocol import HttpCall, NoReply, Reply, backoff_s, may_retry, read_error, read_prediction
from windrow.errors import ClientError, RequestRefused

#: The events that end a stream; their data is the prediction.
LAST = frozenset({"completed", "error"})


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event: ``start``, ``restart``, ``output``, ``metric``, and at last ``completed`` or ``error``.

    After ``restart`` all output before it is void: another worker begins the answer anew.
    """

    type: str
    data: Mapping[str, Any]
    #: Its place in the stream; None where it has none.
    id: str | None = None

    @property
    def text(self) -> str:
        """What an ``output`` adds to the answer number ``data["index"]``; empty for other events."""
        return str(self.data.get("text", "")) if self.type == "output" else ""

    @property
    def prediction(self) -> Prediction | None:
        """The ended prediction that the last event carries; None for other events."""
        return read_prediction(self.data) if self.type in LAST and "status" in self.data else None


class EventParser:
    """Bytes in, events out, as the HTML standard reads an event stream; comments and unknown fields are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """The events that ``chunk`` completes. Raises `RequestRefused` where the data of one is not JSON."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [event for line in lines if (event := self._read(line.removesuffix(b"\r"))) is not None]

    def _read(self, line: bytes) -> StreamEvent | None:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data" and b"data" in self._fields:
                value = self._fields[b"data"] + b"\n" + value
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
                "the event stream is not a prediction's; is this a Windrow server?", code="bad_answer"
            ) from None
        return StreamEvent(fields.get(b"event", b"message").decode(), data, None if id is None else id.decode())


class Stream:
    """One stream from its first request to its last event, over as many connections as it takes.

    The driver sends `call`, tells what came of it, and lets ``pause_s`` pass before it sends the next.
    """

    def __init__(self, request: Mapping[str, Any] | None, idempotency_key: str | None, id: str | None = None) -> None:
        self.is_over = False
        self.pause_s = 0.0
        self._request = request
        self._key = idempotency_key or uuid4().hex
        self._id = id
        self._after: str | None = None
        self._parser = EventParser()
        self._failures = 0

    def call(self) -> HttpCall:
        """The next request: the submit, until it was answered once."""
        headers = {"Accept": "text/event-stream"}
        if self._after is not None:
            headers["Last-Event-ID"] = self._after
        if self._id is not None:
            return HttpCall("GET", f"/v1/predictions/{quote(self._id, safe='')}/events", headers=headers)
        return HttpCall("POST", "/v1/predictions", self._request, headers | {"Idempotency-Key": self._key})

    def opened(self, location: str | None) -> None:
        """The stream begins; ``location`` is the header of that name."""
        self._parser = EventParser()
        if location:
            self._id = location.rpartition("/")[2]

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """The events that ``chunk`` completes."""
        events = self._parser.feed(chunk)
        for event in events:
            self._failures, self._after = 0, event.id or self._after
            self.is_over = self.is_over or event.type in LAST
        return events

    def broke(self, reply: Reply | NoReply | None) -> None:
        """It did not begin, for ``reply``, or broke off (None). Raises `ClientError` where it is of no use to go on."""
        if self.is_over:
            return
        self._failures += 1
        if isinstance(reply, Reply) and reply.status == 204:
            self.is_over = True
            return
        answer = reply or NoReply("the event stream breaks off again and again", was_sent=True)
        error: ClientError | None = read_error(answer)
        assert error is not None
        if not may_retry(self.call(), answer, self._failures):
            raise error
        self.pause_s = backoff_s(self._failures) if error.retry_after_s is None else error.retry_after_s
