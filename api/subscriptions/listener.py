"""One Redis subscription a process for everybody who waits for something of a request, however many they are.

A message is only a hint: after every (re)connect, and about once a second, it is looked for all that are waited for, so
a lost message costs a second and never an answer.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

log = logging.getLogger("windrow.api")
T = TypeVar("T")

RECHECK_S = 1.0
RECONNECT_S = 0.5


class Listener(Generic[T]):
    """Who waits, by id, and the one thread that hears for them all; subclasses know what to do with what it hears.

    The thread starts at the first wait, so that it comes after a fork.
    """

    def __init__(self, redis: Redis, channels: Sequence[str]) -> None:
        self._redis = redis
        self._channels = channels
        self._waiting: dict[str, list[T]] = {}
        self._lock = threading.Lock()
        self._listener_pid: int | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return sum(map(len, list(self._waiting.values())))

    def close(self) -> None:
        """Listen no more."""
        self._is_closed = True

    @contextmanager
    def _entered(self, id: str, one: T) -> Iterator[None]:
        """``one`` waits for ``id`` until the end of the block."""
        with self._lock:
            self._waiting.setdefault(id, []).append(one)
            if self._listener_pid != os.getpid():
                self._listener_pid = os.getpid()
                threading.Thread(target=self._listen, name="windrow-listener", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                left = [other for other in self._waiting[id] if other is not one]
                if left:
                    self._waiting[id] = left
                else:
                    del self._waiting[id]

    def _heard(self, messages: Sequence[bytes]) -> None:
        """Act on what was announced."""
        raise NotImplementedError

    def _recheck(self) -> None:
        """Look for everything that is waited for."""
        raise NotImplementedError

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
                    log.warning("%s: %s: %s; trying again", type(self).__name__, type(error).__name__, error)
                is_away = True
            except Exception:
                log.exception("%s", type(self).__name__)
            time.sleep(RECONNECT_S * random.uniform(0.5, 1.5))  # not all processes at once

    def _follow(self, messages: PubSub) -> None:
        recheck_s = time.monotonic()
        while not self._is_closed:
            heard = self._next(messages, max(0.0, recheck_s - time.monotonic()))
            if heard:
                self._heard(heard)
            if time.monotonic() >= recheck_s:
                self._recheck()
                recheck_s = time.monotonic() + RECHECK_S

    def _next(self, messages: PubSub, timeout_s: float) -> list[bytes]:
        """The next announcement, where there is one within ``timeout_s``."""
        message = cast(dict[str, Any] | None, messages.get_message(timeout=timeout_s))
        return [] if message is None or message["type"] != "message" else [message["data"]]
