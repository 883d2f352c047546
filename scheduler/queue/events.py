"""Event streams: what a running request has brought so far, for whoever follows it.

One Redis stream a request, ``windrow:events:<id>``, of entries ``type`` and ``data`` (JSON). Written only for requests
that were submitted to be followed. Types, in their order: ``start``, or ``restart`` where an attempt begins anew and
all before it is void; ``output`` and ``metric``; at last ``completed``, or ``error`` for any other end, which the
script that ends the request writes itself. An entry names its place: ``<ms>-<number>``, where the numbers of an attempt
have no gap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.commands.core import Script

from windrow.scheduler.queue.keys import KEY_NAMES, events_channel, events_key, queue_key
from windrow.scheduler.queue.scripts import load_scripts

START, RESTART, OUTPUT, METRIC = "start", "restart", "output", "metric"
COMPLETED, ERROR = "completed", "error"
LAST = frozenset({COMPLETED, ERROR})
#: Before the first entry.
BEGINNING = "0-0"
#: What `Last-Event-ID` and Redis call a place.
PLACE = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
#: Entries kept of a stream, about: some five minutes of fifty a second, and a megabyte.
KEPT_ENTRIES = 16_384
#: How long a stream is kept that nothing is added to, while its request has not ended, in seconds.
SILENT_TTL_S = 3600
#: Entries read at a time.
READ_ENTRIES = 512


class Entry(NamedTuple):
    """Something to tell of one request that is held."""

    id: str
    #: Of the claim that holds it.
    token: str
    #: Where it goes, which makes telling it twice the same as once; empty for the one that begins an attempt.
    place: str
    type: str
    #: JSON.
    data: bytes


class Event(NamedTuple):
    """Something that was told of a request."""

    place: str
    type: str
    #: JSON.
    data: bytes


class EventStreams:
    """Writes the streams of one model's requests. Redis errors pass through as `redis.exceptions.RedisError`."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis = redis
        self._keys = [queue_key(model, name) for name in KEY_NAMES]
        self._channel = events_channel(model)
        self._loaded: dict[str, Script] | None = None

    def tell(self, entries: Sequence[Entry]) -> list[str | None]:
        """Add all in one round trip and return their places; None for what is no longer the token's to tell."""
        if not entries:
            return []
        if self._loaded is None:
            self._loaded = load_scripts(self._redis)
        arguments: list[Any] = [SILENT_TTL_S, KEPT_ENTRIES, self._channel]
        for entry in entries:
            arguments += entry
        reply = self._loaded["tell"](keys=[*self._keys, *(events_key(entry.id) for entry in entries)], args=arguments)
        return [place.decode() or None for place in reply]


def place_order(place: str) -> tuple[int, int]:
    """What places are sorted by."""
    ms, _, number = place.partition("-")
    return int(ms), int(number)


def next_place(place: str) -> str:
    """The place right behind ``place``."""
    ms, _, number = place.partition("-")
    return f"{ms}-{int(number) + 1}"


def is_gap(after: str, event: Event) -> bool:
    """Whether something between ``after`` and ``event`` is lost to a reader: only what still counts is missed."""
    return event.type in (OUTPUT, METRIC) and event.place != next_place(after)


def read_events(redis: Redis, cursors: Mapping[str, str]) -> dict[str, list[Event]]:
    """What stands behind each cursor (id -> place), up to `READ_ENTRIES` each, in one round trip."""
    if not cursors:
        return {}
    pipe = redis.pipeline(transaction=False)
    for id, after in cursors.items():
        pipe.xrange(events_key(id), min=f"({after}", count=READ_ENTRIES)
    replies = cast(list[list[tuple[bytes, dict[bytes, bytes]]]], pipe.execute())
    return {id: [_event(*entry) for entry in reply] for id, reply in zip(cursors, replies, strict=True)}


def last_event(redis: Redis, id: str) -> Event | None:
    """The newest; None where there is no stream."""
    found = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrevrange(events_key(id), count=1))
    return next((_event(*entry) for entry in found), None)


def _event(place: bytes, fields: Mapping[bytes, bytes]) -> Event:
    return Event(place.decode(), fields[b"type"].decode(), fields[b"data"])
