"""Following event streams: one Redis subscription a process, however many clients read.

Workers publish which streams have something new; a message is only a hint, and the streams are the truth. The listener
reads what is new for all followers in one round trip. A client that has not taken its last events gets no more: it
catches up by itself, so a slow one holds up nobody and fills nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from redis import Redis
from redis.client import PubSub

from windrow.api.subscriptions.listener import Listener
from windrow.api.subscriptions.waiters import Waiter, Waiters
from windrow.scheduler.queue.events import READ_ENTRIES, Event, place_order, read_events
from windrow.scheduler.queue.keys import events_channel

#: Streams read in one round trip, and announcements before it.
STREAMS_PER_READ = 256
MESSAGES_PER_READ = 64


class Follower:
    """One client's place in one stream."""

    def __init__(self, redis: Redis, id: str, after: str) -> None:
        self.id = id
        #: Everything up to here was given, or was given before this client came.
        self.after = after
        #: Set when there is something to take, or the end has come.
        self.news = threading.Event()
        #: There may be more than was given.
        self.is_behind = True
        self._redis = redis
        self._events: list[Event] = []
        self._lock = threading.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was given has been taken, so that the listener may read for it."""
        return not self._events and not self.is_behind

    def give(self, events: Sequence[Event]) -> None:
        """Have what was read behind this place or an earlier one."""
        with self._lock:
            fresh = [event for event in events if place_order(event.place) > place_order(self.after)]
            if fresh:
                self._events += fresh
                self.after = fresh[-1].place
        self.is_behind = len(events) >= READ_ENTRIES
        self.news.set()

    def miss(self) -> None:
        """There is more, which nobody read."""
        self.is_behind = True
        self.news.set()

    def take(self) -> list[Event]:
        """Everything there is now, at most about `READ_ENTRIES`. Redis errors pass through."""
        self.news.clear()
        if self.is_behind:
            self.give(read_events(self._redis, {self.id: self.after})[self.id])
        with self._lock:
            events, self._events = self._events, []
        return events

    def take_all(self) -> list[Event]:
        """Everything there is now, however much."""
        self.is_behind, events = True, []
        while self.is_behind:
            events += self.take()
        return events


class Followers(Listener[Follower]):
    """Everybody in this process who follows a stream; their listening ends with that of ``waiters``."""

    def __init__(self, redis: Redis, models: Sequence[str], waiters: Waiters) -> None:
        super().__init__(redis, [events_channel(model) for model in models])
        self._waiters = waiters

    @contextmanager
    def follow(self, id: str, after: str) -> Iterator[tuple[Follower, Waiter]]:
        """A place behind ``after`` and a wait for the end, from now to the end of the block."""
        follower = Follower(self._redis, id, after)
        with self._waiters.expect(id, follower.news) as waiter, self._entered(id, follower):
            yield follower, waiter

    def _next(self, messages: PubSub, timeout_s: float) -> list[bytes]:
        heard = super()._next(messages, timeout_s)
        while heard and len(heard) < MESSAGES_PER_READ and (more := super()._next(messages, 0.0)):
            heard += more
        return heard

    def _heard(self, messages: Sequence[bytes]) -> None:
        told = dict.fromkeys(id for message in messages for id in message.decode().split())
        self._read([id for id in told if id in self._waiting])

    def _recheck(self) -> None:
        self._read(list(self._waiting))

    def _read(self, ids: Sequence[str]) -> None:
        left = iter(ids)
        while some := list(islice(left, STREAMS_PER_READ)):
            idle: dict[str, list[Follower]] = {}
            for id in some:
                for follower in self._waiting.get(id, ()):
                    if follower.is_idle:
                        idle.setdefault(id, []).append(follower)
                    else:
                        follower.miss()
            cursors = {id: min((one.after for one in group), key=place_order) for id, group in idle.items()}
            for id, events in read_events(self._redis, cursors).items():
                for follower in idle[id]:
                    if events:
                        follower.give(events)
