"""Requests of a gateway that wait to be made ready."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windrow.errors import QueueFull, WindrowError


@dataclass(eq=False, slots=True)
class Ticket:
    """One call of `infer` that has not ended."""

    id: str
    input: Any
    parameters: Mapping[str, Any]
    #: `time.monotonic`
    arrived_s: float
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class PendingRequests:
    """A bounded queue from event loops to a thread. Counted is what has not been started, taken out or not."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._changed = threading.Condition()
        #: In order of arrival; what was taken is in ``_taken`` until it is started.
        self._waiting: dict[str, Ticket] = {}
        self._taken: dict[str, Ticket] = {}
        self._closed: WindrowError | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    def put(self, ticket: Ticket) -> None:
        """Add one. Raises `QueueFull`, and what `close` was given."""
        with self._changed:
            if self._closed is not None:
                raise type(self._closed)(self._closed.detail)
            if len(self) >= self._max_size:
                raise QueueFull(f"{len(self)} requests wait, as many as max_queue_size allows; await some first")
            self._waiting[ticket.id] = ticket
            self._changed.notify()

    def take(self, room: int) -> list[Ticket]:
        """Up to ``room`` from the front; blocks for the first. Empty once `close` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            ids = [] if self._closed else list(self._waiting)[:room]
            taken = [self._waiting.pop(id) for id in ids]
            self._taken.update((ticket.id, ticket) for ticket in taken)
            return taken

    def start(self, id: str) -> Ticket | None:
        """Count it no longer: it is started, or ended. None where it was withdrawn."""
        with self._changed:
            return self._taken.pop(id, None)

    def withdraw(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: it is not started where it was not yet."""
        with self._changed:
            self._waiting.pop(ticket.id, None)
            self._taken.pop(ticket.id, None)

    def close(self, why: WindrowError) -> list[Ticket]:
        """Take and hand out nothing more; return what was not started."""
        with self._changed:
            self._closed = why
            left = [*self._taken.values(), *self._waiting.values()]
            self._taken.clear()
            self._waiting.clear()
            self._changed.notify_all()
            return left
