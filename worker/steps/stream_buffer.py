"""Gathers tokens into entries of event streams: the first token at once, later ones at intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import METRIC, OUTPUT, START, Entry, next_place
from windrow.worker.engines.base import Delta, stream_interval_s

#: Approximate number of entries in one round trip.
MAX_ENTRIES = 500


@dataclass(slots=True)
class _Unwritten:
    """Tokens of one choice that are not in the stream yet."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Stream:
    """The event stream of one request."""

    request: Request
    #: Place of the last entry; None until the start event is written.
    place: str | None = None
    #: `time.monotonic` of the last output event.
    output_s: float = float("-inf")
    #: Choice -> tokens to write.
    choices: dict[int, _Unwritten] = field(default_factory=dict)
    metrics: list[tuple[str, float]] = field(default_factory=list)
    has_ended: bool = False


class StreamBuffer:
    """The unwritten events of the followed requests of one model. The caller passes the time and holds a lock."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        #: The streams that have something to write, in that order.
        self._pending: dict[str, _Stream] = {}

    def follow(self, key: str, request: Request) -> None:
        """Open the stream of an attempt; ``key`` is the engine's name for it."""
        self._streams[key] = self._pending[key] = _Stream(request)

    def add(self, delta: Delta) -> None:
        """Buffer what a step generated; does nothing for a request that is not followed."""
        stream = self._streams.get(delta.id)
        if stream is None:
            return
        if delta.tokens or delta.text:
            unwritten = stream.choices.setdefault(delta.index, _Unwritten())
            unwritten.texts.append(delta.text)
            unwritten.tokens += delta.tokens
            unwritten.logprobs += delta.logprobs or ()
        stream.has_ended = stream.has_ended or delta.outcome is not None
        if delta.text or delta.logprobs or delta.outcome is not None:  # tokens without text yet are not worth an event
            self._pending[delta.id] = stream

    def add_metric(self, key: str, name: str, value: float) -> None:
        """Write a metric with the next output event; does nothing for a request that is not followed."""
        if key in self._streams:
            self._streams[key].metrics.append((name, value))

    def drop(self, key: str) -> None:
        """Discard the stream of a request that has finished or is no longer held."""
        self._streams.pop(key, None)
        self._pending.pop(key, None)

    def take_due(self, now_s: float) -> list[tuple[str, Entry]]:
        """Take out the entries that are due, with their keys. Call `written` before the next call."""
        entries: list[tuple[str, Entry]] = []
        for key, stream in list(self._pending.items()):
            if len(entries) >= MAX_ENTRIES:
                break
            request = stream.request
            if stream.place is None:
                data = orjson.dumps({"id": request.id, "attempt": request.attempt})
                entries.append((key, Entry(request.id, request.token, "", START, data)))
            elif self._stream_wait_s(stream, now_s) <= 0:
                entries += [(key, entry) for entry in _take_entries(stream)]
                stream.output_s = now_s
                del self._pending[key]
        return entries

    def written(self, entries: Sequence[tuple[str, Entry]], places: Sequence[str | None]) -> list[Request]:
        """Record the places of the entries of `take_due`.

        Drops and returns the requests whose place is None: this process has lost them.
        """
        lost: dict[str, Request] = {}
        for (key, entry), place in zip(entries, places, strict=True):
            stream = self._streams.get(key)
            if stream is None:
                continue
            if place is None:
                lost[key] = stream.request
                self.drop(key)
            elif entry.place == "":
                stream.place = place
                if not (stream.choices or stream.metrics):
                    self._pending.pop(key, None)
        return list(lost.values())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._pending

    def is_pending(self, key: str) -> bool:
        """Whether a request has something to write."""
        return key in self._pending

    def wait_s(self, now_s: float) -> float | None:
        """Return the seconds until an entry is due; None if there is nothing to write."""
        return min((self._stream_wait_s(stream, now_s) for stream in self._pending.values()), default=None)

    def _stream_wait_s(self, stream: _Stream, now_s: float) -> float:
        if stream.place is None or stream.has_ended:
            return 0.0
        return max(0.0, stream.output_s + stream_interval_s(len(self._streams)) - now_s)


def _take_entries(stream: _Stream) -> list[Entry]:
    """Turn everything buffered into entries behind the last one."""
    events: list[tuple[str, dict[str, Any]]] = []
    for index, unwritten in sorted(stream.choices.items()):
        output: dict[str, Any] = {"index": index, "text": "".join(unwritten.texts), "tokens": unwritten.tokens}
        events.append((OUTPUT, output | ({"logprobs": unwritten.logprobs} if unwritten.logprobs else {})))
    events += [(METRIC, {"name": name, "value": value}) for name, value in stream.metrics]
    stream.choices, stream.metrics = {}, []
    entries = []
    for type, data in events:
        assert stream.place is not None
        stream.place = next_place(stream.place)
        entries.append(Entry(stream.request.id, stream.request.token, stream.place, type, orjson.dumps(data)))
    return entries
