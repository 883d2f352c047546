"""Event streams: the partial results of running requests, for clients that follow them.

Each request that was submitted with an event stream has one Redis stream, ``windrow:events:<id>``, of entries with the
fields ``type`` and ``data`` (JSON). The types, in order: ``start``, or ``restart`` if another attempt begins and all
earlier entries are void; ``output`` and ``metric``; at last ``completed``, or ``error`` for any other final state. The
script that finishes the request appends the last one. The place of an entry is its id in Redis, ``<ms>-<number>``; the
numbers of one attempt have no gap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from redis import Redis

from windrow.scheduler.queue.keys import events_channel, events_key
from windrow.scheduler.queue.script_calls import ScriptCalls

START, RESTART, OUTPUT, METRIC = "start", "restart", "output", "metric"
COMPLETED, ERROR = "completed", "error"
LAST = frozenset({COMPLETED, ERROR})
#: The place before the first entry.
BEGINNING = "0-0"
#: A place, as in ``Last-Event-ID`` and in Redis.
PLACE = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
#: Approximate maximum length of a stream: five minutes at 50 entries per second, about 1 MB.
MAX_ENTRIES = 16_384
#: A stream of an unfinished request expires this long after its last entry, in seconds.
IDLE_TTL_S = 3600
#: Maximum number of entries per read.
READ_ENTRIES = 512


class Entry(NamedTuple):
    """An event to append to the stream of a running request."""

    id: str
    #: Attempt token of the claim that holds the request.
    token: str
    #: Place in the stream, so that appending the entry twice has no effect; empty for the first entry of an attempt.
    place: str
    type: str
    #: JSON.
    data: bytes


class Event(NamedTuple):
    """An event of a stream."""

    place: str
    type: str
    #: JSON.
    data: bytes


class EventStreams:
    """Writes the streams of one model's requests. Redis errors pass through as `redis.exceptions.RedisError`."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._calls = ScriptCalls(redis, model)
        self._channel = events_channel(model)

    def append(self, entries: Sequence[Entry]) -> list[str | None]:
        """Append entries in one round trip and return their places; None if the token no longer holds the request."""
        if not entries:
            return []
        arguments: list[Any] = [IDLE_TTL_S, MAX_ENTRIES, self._channel]
        for entry in entries:
            arguments += entry
        reply = self._calls.run("append_events", arguments, [events_key(entry.id) for entry in entries])
        return [place.decode() or None for place in reply]


def place_order(place: str) -> tuple[int, int]:
    """Return the sort key of a place."""
    ms, _, number = place.partition("-")
    return int(ms), int(number)


def next_place(place: str) -> str:
    """Return the place that follows ``place``."""
    ms, _, number = place.partition("-")
    return f"{ms}-{int(number) + 1}"


def is_gap(after: str, event: Event) -> bool:
    """Return whether entries of the same attempt between ``after`` and ``event`` are missing."""
    return event.type in (OUTPUT, METRIC) and event.place != next_place(after)


def read_events(redis: Redis, cursors: Mapping[str, str]) -> dict[str, list[Event]]:
    """Return up to `READ_ENTRIES` events after each cursor (id -> place), in one round trip."""
    if not cursors:
        return {}
    pipe = redis.pipeline(transaction=False)
    for id, after in cursors.items():
        pipe.xrange(events_key(id), min=f"({after}", count=READ_ENTRIES)
    replies = cast(list[list[tuple[bytes, dict[bytes, bytes]]]], pipe.execute())
    return {id: [_event(*entry) for entry in reply] for id, reply in zip(cursors, replies, strict=True)}


def last_event(redis: Redis, id: str) -> Event | None:
    """Return the newest event; None if there is no stream."""
    found = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrevrange(events_key(id), count=1))
    return next((_event(*entry) for entry in found), None)


def _event(place: bytes, fields: Mapping[bytes, bytes]) -> Event:
    return Event(place.decode(), fields[b"type"].decode(), fields[b"data"])
