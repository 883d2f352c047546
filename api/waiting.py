"""Waiting for results: one Redis subscription a process, however many clients wait.

Workers publish the ids of a batch in one message. The listener looks which of them anybody here waits for and reads
those results in one MGET; the result of a lone request comes with its message. A message is only a hint: after every
(re)connect, and about once a second, it looks for all that are waited for, so a lost message costs a second and never
an answer.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from scheduler.queue import Prediction, result_key
from scheduler.queue.keys import read_announcement
from scheduler.queue.records import ended_prediction

log = logging.getLogger("windrow.api")

RECHECK_S = 1.0
RECONNECT_S = 0.5
#: Results read at once; a result is a few kilobytes.
RESULTS_PER_READ = 128


class Waiter:
    """One client's wait for one result."""

    __slots__ = ("_document", "_event")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._document: bytes | None = None

    def wait(self, timeout_s: float) -> Prediction | None:
        """The ended prediction; None when it did not end in time, or the server stops."""
        self._event.wait(timeout_s)
        return None if self._document is None else ended_prediction(self._document)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self._event.is_set()

    def wake(self, document: bytes | None) -> None:
        """End the wait, with the result document or without."""
        self._document = document
        self._event.set()


class Waiters:
    """Everybody in this process who waits for a result, and the one thread that listens for them all.

    The thread starts at the first wait, so that it comes after a fork.
    """

    def __init__(self, redis: Redis, channels: Sequence[str]) -> None:
        self._redis = redis
        self._channels = channels
        self._waiting: dict[str, list[Waiter]] = {}
        self._lock = threading.Lock()
        self._listener_pid: int | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return sum(map(len, list(self._waiting.values())))

    @contextmanager
    def expect(self, id: str) -> Iterator[Waiter]:
        """A waiter for ``id``, from now to the end of the block; enter it before the request can end."""
        waiter = Waiter()
        with self._lock:
            self._waiting.setdefault(id, []).append(waiter)
            if self._listener_pid != os.getpid():
                self._listener_pid = os.getpid()
                threading.Thread(target=self._listen, name="windrow-listener", daemon=True).start()
            is_closed = self._is_closed
        try:
            if is_closed:
                waiter.wake(None)
            yield waiter
        finally:
            with self._lock:
                left = [other for other in self._waiting[id] if other is not waiter]
                if left:
                    self._waiting[id] = left
                else:
                    del self._waiting[id]

    def close(self) -> None:
        """The server stops: nobody waits any longer."""
        self._is_closed = True
        for waiters in list(self._waiting.values()):
            for waiter in waiters:
                waiter.wake(None)

    def _listen(self) -> None:
        is_away = False
        while not self._is_closed:
            try:
                with self._redis.pubsub() as messages:
                    messages.subscribe(*self._channels)
                    is_away = False
                    self._follow(messages)
            except RedisError as error:
                if not is_away:
                    log.warning("listening for results: %s: %s; trying again", type(error).__name__, error)
                is_away = True
            except Exception:
                log.exception("listening for results")
            time.sleep(RECONNECT_S * random.uniform(0.5, 1.5))  # not all processes at once

    def _follow(self, messages: PubSub) -> None:
        recheck_s = time.monotonic()
        while not self._is_closed:
            ended, document = self._next(messages, max(0.0, recheck_s - time.monotonic()))
            if document is not None:
                self._wake(ended[0], document)
                ended = []
            if time.monotonic() >= recheck_s:
                ended = list(self._waiting)
                recheck_s = time.monotonic() + RECHECK_S
            self._read([id for id in ended if id in self._waiting])

    def _next(self, messages: PubSub, timeout_s: float) -> tuple[list[str], bytes | None]:
        """The next announcement: ids of one batch, or none within ``timeout_s``; a lone one brings its document."""
        message = cast(dict[str, Any] | None, messages.get_message(timeout=timeout_s))
        if message is None or message["type"] != "message":
            return [], None
        return read_announcement(message["data"])

    def _read(self, ids: Sequence[str]) -> None:
        left = iter(ids)
        while some := list(islice(left, RESULTS_PER_READ)):
            documents = cast(list[bytes | None], self._redis.mget([result_key(id) for id in some]))
            for id, document in zip(some, documents, strict=True):
                # Another Celery task's result would carry no windrow object.
                if document is not None and b'"windrow":{' in document:
                    self._wake(id, document)

    def _wake(self, id: str, document: bytes) -> None:
        for waiter in self._waiting.get(id, ()):
            waiter.wake(document)
