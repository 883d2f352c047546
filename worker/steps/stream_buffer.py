"""Gathering tokens into entries of event streams: the first at once, then as many as come in a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import METRIC, OUTPUT, START, Entry, next_place
from windrow.worker.engines.base import Delta, stream_interval_s

#: In one call, about.
MOST_ENTRIES = 500


@dataclass(slots=True)
class _Pending:
    """What one of the answers of a request brought since it was last told."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Followed:
    """One request that somebody follows."""

    request: Request
    #: Of the last entry; None until the start was told.
    place: str | None = None
    #: `time.monotonic` of the last output that was told.
    told_s: float = float("-inf")
    pieces: dict[int, _Pending] = field(default_factory=dict)
    metrics: list[tuple[str, float]] = field(default_factory=list)
    has_ended: bool = False


class StreamBuffer:
    """What is to be told of the requests of one lane. Time comes from the caller, who also sees to the locking."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}
        #: Those of them that have something to tell; in this order.
        self._pending: dict[str, _Followed] = {}

    def begin(self, key: str, request: Request) -> None:
        """An attempt begins; ``key`` is the engine's name for it."""
        self._followed[key] = self._pending[key] = _Followed(request)

    def add(self, delta: Delta) -> None:
        """Take up what a step gave; nothing where nobody follows the request."""
        followed = self._followed.get(delta.id)
        if followed is None:
            return
        if delta.tokens or delta.text:
            piece = followed.pieces.setdefault(delta.index, _Pending())
            piece.texts.append(delta.text)
            piece.tokens += delta.tokens
            piece.logprobs += delta.logprobs or ()
        followed.has_ended = followed.has_ended or delta.outcome is not None
        if delta.text or delta.logprobs or delta.outcome is not None:  # else there is nothing to show yet
            self._pending[delta.id] = followed

    def measure(self, key: str, name: str, value: float) -> None:
        """Tell of a measurement with the next output."""
        if key in self._followed:
            self._followed[key].metrics.append((name, value))

    def drop(self, key: str) -> None:
        """Tell nothing more of it: it has ended, or is another worker's."""
        self._followed.pop(key, None)
        self._pending.pop(key, None)

    def due(self, now_s: float) -> list[tuple[str, Entry]]:
        """Take out what is to be told now, by key. `told` has to follow before the next call."""
        entries: list[tuple[str, Entry]] = []
        for key, followed in list(self._pending.items()):
            if len(entries) >= MOST_ENTRIES:
                break
            if followed.place is None:
                data = orjson.dumps({"id": followed.request.id, "attempt": followed.request.attempt})
                entries.append((key, Entry(followed.request.id, followed.request.token, "", START, data)))
            elif self._wait_s(followed, now_s) <= 0:
                entries += [(key, entry) for entry in _entries(followed)]
                followed.told_s = now_s
                del self._pending[key]
        return entries

    def told(self, entries: Sequence[tuple[str, Entry]], places: Sequence[str | None]) -> list[Request]:
        """Learn where the entries of `due` went; return the requests that turned out to be another's."""
        lost: dict[str, Request] = {}
        for (key, entry), place in zip(entries, places, strict=True):
            followed = self._followed.get(key)
            if followed is None:
                continue
            if place is None:
                lost[key] = followed.request
            elif entry.place == "":
                followed.place = place
                if not (followed.pieces or followed.metrics):
                    self._pending.pop(key, None)
        return list(lost.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be told."""
        return not self._pending

    def is_pending(self, key: str) -> bool:
        """Whether there is something to tell of it."""
        return key in self._pending

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until something is due; None where nothing is pending."""
        return min((self._wait_s(followed, now_s) for followed in self._pending.values()), default=None)

    def _wait_s(self, followed: _Followed, now_s: float) -> float:
        if followed.place is None or followed.has_ended:
            return 0.0
        return max(0.0, followed.told_s + stream_interval_s(len(self._followed)) - now_s)


def _entries(followed: _Followed) -> list[Entry]:
    """Everything gathered, as entries behind the last one."""
    told = []
    for index, piece in sorted(followed.pieces.items()):
        output: dict[str, Any] = {"index": index, "text": "".join(piece.texts), "tokens": piece.tokens}
        told.append((OUTPUT, output | ({"logprobs": piece.logprobs} if piece.logprobs else {})))
    told += [(METRIC, {"name": name, "value": value}) for name, value in followed.metrics]
    followed.pieces, followed.metrics = {}, []
    entries = []
    for kind, data in told:
        assert followed.place is not None
        followed.place = next_place(followed.place)
        entries.append(Entry(followed.request.id, followed.request.token, followed.place, kind, orjson.dumps(data)))
    return entries
