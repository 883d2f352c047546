"""Waiting for results. Workers publish the ids of a finished batch in one message.

The listener reads the results that clients of this process wait for with one MGET. A message about a single request
contains its result.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from windrow.api.subscriptions.listener import Listener
from windrow.scheduler.queue import Prediction, result_key
from windrow.scheduler.queue.keys import read_announcement
from windrow.scheduler.queue.prediction import ended_prediction


class Waiter:
    """One client's wait for one result; its event is set when the wait ends."""

    __slots__ = ("_document", "_event", "is_over")

    def __init__(self, event: threading.Event | None = None) -> None:
        self._event = event or threading.Event()
        self._document: bytes | None = None
        #: Whether the wait has ended, with or without a result.
        self.is_over = False

    def wait(self, timeout_s: float) -> Prediction | None:
        """Return the finished prediction; None if it has not finished in time, or the server stops."""
        self._event.wait(timeout_s)
        return self.ended()

    def ended(self) -> Prediction | None:
        """Return the finished prediction; None if it has not finished."""
        return None if self._document is None else ended_prediction(self._document)

    def wake(self, document: bytes | None) -> None:
        """End the wait with the result document, or with None because the server stops."""
        self._document = document
        self.is_over = True
        self._event.set()


class Waiters(Listener[Waiter]):
    """All clients of this process that wait for a result."""

    ids_per_read = 128  # a result is a few kilobytes

    @contextmanager
    def expect(self, id: str, event: threading.Event | None = None) -> Iterator[Waiter]:
        """Return a waiter for the request ``id`` during the block; enter it before the request can finish."""
        waiter = Waiter(event)
        with self._registered(id, waiter):
            if self._is_closed:
                waiter.wake(None)
            yield waiter

    def close(self) -> None:
        """End all waits, because the server stops."""
        super().close()
        for waiters in list(self._waiting.values()):
            for waiter in waiters:
                waiter.wake(None)

    def _handle(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            ids, document = read_announcement(message)
            if document is not None:
                self._wake(ids[0], document)
            else:
                self._read_waiting(ids)

    def _read(self, ids: Sequence[str]) -> None:
        documents = cast(list[bytes | None], self._redis.mget([result_key(id) for id in ids]))
        for id, document in zip(ids, documents, strict=True):
            # Results of other Celery tasks have no windrow object.
            if document is not None and b'"windrow":{' in document:
                self._wake(id, document)

    def _wake(self, id: str, document: bytes) -> None:
        for waiter in self._waiting.get(id, ()):
            waiter.wake(document)
