"""Waiting for results: workers publish the ids of a batch in one message.

The listener looks which of them anybody here waits for and reads those results in one MGET; the result of a lone
request comes with its message.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import cast

from windrow.api.subscriptions.listener import Listener
from windrow.scheduler.queue import Prediction, result_key
from windrow.scheduler.queue.keys import read_announcement
from windrow.scheduler.queue.records import ended_prediction

#: Results read at once; a result is a few kilobytes.
RESULTS_PER_READ = 128


class Waiter:
    """One client's wait for one result; ``event`` is set at its end."""

    __slots__ = ("_document", "_event", "is_over")

    def __init__(self, event: threading.Event | None = None) -> None:
        self._event = event or threading.Event()
        self._document: bytes | None = None
        #: Whether there is nothing more to wait for.
        self.is_over = False

    def wait(self, timeout_s: float) -> Prediction | None:
        """The ended prediction; None when it did not end in time, or the server stops."""
        self._event.wait(timeout_s)
        return self.ended()

    def ended(self) -> Prediction | None:
        """The ended prediction; None while it has not ended, or where the server stops."""
        return None if self._document is None else ended_prediction(self._document)

    def wake(self, document: bytes | None) -> None:
        """End the wait, with the result document or without."""
        self._document = document
        self.is_over = True
        self._event.set()


class Waiters(Listener[Waiter]):
    """Everybody in this process who waits for a result."""

    @contextmanager
    def expect(self, id: str, event: threading.Event | None = None) -> Iterator[Waiter]:
        """A waiter for ``id``, from now to the end of the block; enter it before the request can end."""
        waiter = Waiter(event)
        with self._entered(id, waiter):
            if self._is_closed:
                waiter.wake(None)
            yield waiter

    def close(self) -> None:
        """The server stops: nobody waits any longer."""
        super().close()
        for waiters in list(self._waiting.values()):
            for waiter in waiters:
                waiter.wake(None)

    def _heard(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            ids, document = read_announcement(message)
            if document is not None:
                self._wake(ids[0], document)
            else:
                self._read([id for id in ids if id in self._waiting])

    def _recheck(self) -> None:
        self._read(list(self._waiting))

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
