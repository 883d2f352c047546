"""Following event streams. Workers publish the ids of requests with new events.

The listener reads the new events for all followers in one round trip. A follower that has not taken its last events
gets no more from the listener and reads its stream itself, so that a slow client neither delays others nor fills
memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis
from redis.client import PubSub

from windrow.api.subscriptions.listener import Listener
from windrow.api.subscriptions.waiters import Waiter, Waiters
from windrow.scheduler.queue.events import READ_ENTRIES, Event, place_order, read_events
from windrow.scheduler.queue.keys import events_channel

#: Messages taken before the streams that they name are read.
MESSAGES_PER_READ = 64


class Follower:
    """One client's position in one event stream."""

    def __init__(self, redis: Redis, id: str, after: str) -> None:
        self.id = id
        #: Place of the last event that was read for this client.
        self.after = after
        #: Set when there are events to take, or the request has finished.
        self.news = threading.Event()
        #: Whether the stream may have more events than were read.
        self.is_behind = True
        self._redis = redis
        self._events: list[Event] = []
        self._lock = threading.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether the client has taken all events, so that the listener may read for it."""
        return not self._events and not self.is_behind

    def give(self, events: Sequence[Event]) -> None:
        """Add events read from the stream; those up to ``after`` are skipped."""
        with self._lock:
            fresh = [event for event in events if place_order(event.place) > place_order(self.after)]
            if fresh:
                self._events += fresh
                self.after = fresh[-1].place
        self.is_behind = len(events) >= READ_ENTRIES
        self.news.set()

    def mark_behind(self) -> None:
        """Note that the stream has events that the listener does not read for this client."""
        self.is_behind = True
        self.news.set()

    def take(self) -> list[Event]:
        """Return the events so far, at most about `READ_ENTRIES`. Redis errors pass through."""
        self.news.clear()
        if self.is_behind:
            self.give(read_events(self._redis, {self.id: self.after})[self.id])
        with self._lock:
            events, self._events = self._events, []
        return events

    def take_all(self) -> list[Event]:
        """Return all events so far."""
        self.is_behind, events = True, []
        while self.is_behind:
            events += self.take()
        return events


class Followers(Listener[Follower]):
    """All clients of this process that follow an event stream."""

    ids_per_read = 256

    def __init__(self, redis: Redis, models: Sequence[str], waiters: Waiters) -> None:
        super().__init__(redis, [events_channel(model) for model in models])
        self._waiters = waiters

    @contextmanager
    def follow(self, id: str, after: str) -> Iterator[tuple[Follower, Waiter]]:
        """Return a follower of the events after the place ``after``, and a waiter for the result, during the block."""
        follower = Follower(self._redis, id, after)
        with self._waiters.expect(id, follower.news) as waiter, self._registered(id, follower):
            yield follower, waiter

    def _next(self, pubsub: PubSub, timeout_s: float) -> list[bytes]:
        messages = super()._next(pubsub, timeout_s)
        while messages and len(messages) < MESSAGES_PER_READ and (more := super()._next(pubsub, 0.0)):
            messages += more
        return messages

    def _handle(self, messages: Sequence[bytes]) -> None:
        self._read_waiting(dict.fromkeys(id for message in messages for id in message.decode().split()))

    def _read(self, ids: Sequence[str]) -> None:
        idle: dict[str, list[Follower]] = {}
        for id in ids:
            for follower in self._waiting.get(id, ()):
                if follower.is_idle:
                    idle.setdefault(id, []).append(follower)
                else:
                    follower.mark_behind()
        cursors = {id: min((each.after for each in group), key=place_order) for id, group in idle.items()}
        for id, events in read_events(self._redis, cursors).items():
            for follower in idle[id]:
                if events:
                    follower.give(events)
