"""The thread that listens to Redis Pub/Sub for all clients of a process that wait for something.

Messages are only hints about what to read. After every (re)connect, and about once a second, everything that a client
waits for is read, so that a lost message costs a second and never a result.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar, cast

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

log = logging.getLogger("windrow.api")
T = TypeVar("T")

RECHECK_S = 1.0
RECONNECT_S = 0.5


class Listener(Generic[T]):
    """The waiting clients by request id, and the thread that reads for them.

    A subclass implements `_handle` and `_read`. The thread starts with the first client, and thus after a fork.
    """

    #: Ids that one call of `_read` gets at most.
    ids_per_read: ClassVar[int]

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
        """Stop listening."""
        self._is_closed = True

    @contextmanager
    def _registered(self, id: str, client: T) -> Iterator[None]:
        """Register ``client`` for the request ``id`` during the block."""
        with self._lock:
            self._waiting.setdefault(id, []).append(client)
            if self._listener_pid != os.getpid():
                self._listener_pid = os.getpid()
                threading.Thread(target=self._listen, name="windrow-listener", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                others = [other for other in self._waiting[id] if other is not client]
                if others:
                    self._waiting[id] = others
                else:
                    del self._waiting[id]

    def _handle(self, messages: Sequence[bytes]) -> None:
        """Handle published messages."""
        raise NotImplementedError

    def _read(self, ids: Sequence[str]) -> None:
        """Read the news of ``ids`` in one round trip and hand them to the waiting clients."""
        raise NotImplementedError

    def _read_waiting(self, ids: Iterable[str]) -> None:
        """Read the news of those of ``ids`` that a client waits for."""
        waiting = (id for id in ids if id in self._waiting)
        while group := list(islice(waiting, self.ids_per_read)):
            self._read(group)

    def _listen(self) -> None:
        is_away = False
        while not self._is_closed:
            try:
                with self._redis.pubsub() as pubsub:
                    pubsub.subscribe(*self._channels)
                    is_away = False
                    self._follow(pubsub)
            except RedisError as error:
                if not is_away:
                    log.warning("%s: %s: %s; trying again", type(self).__name__, type(error).__name__, error)
                is_away = True
            except Exception:
                log.exception("%s", type(self).__name__)
            time.sleep(RECONNECT_S * random.uniform(0.5, 1.5))  # so that processes do not reconnect all at once

    def _follow(self, pubsub: PubSub) -> None:
        recheck_s = time.monotonic()
        while not self._is_closed:
            messages = self._next(pubsub, max(0.0, recheck_s - time.monotonic()))
            if messages:
                self._handle(messages)
            if time.monotonic() >= recheck_s:
                self._read_waiting(list(self._waiting))
                recheck_s = time.monotonic() + RECHECK_S

    def _next(self, pubsub: PubSub, timeout_s: float) -> list[bytes]:
        """Return the next message if there is one within ``timeout_s``."""
        message = cast(dict[str, Any] | None, pubsub.get_message(timeout=timeout_s))
        return [] if message is None or message["type"] != "message" else [message["data"]]
