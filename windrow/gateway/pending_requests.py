"""The queue of a gateway: requests from event loops to the thread that prepares them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windrow.errors import QueueFull, WindrowError


@dataclass(eq=False, slots=True)
class InferCall:
    """One call of `infer` that has not finished."""

    id: str
    input: Any
    parameters: Mapping[str, Any]
    #: By `time.monotonic`.
    arrived_s: float
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class PendingRequests:
    """A bounded queue. Calls count until they start, also after a thread has taken them to prepare them."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._changed = threading.Condition()
        #: Calls in order of arrival; a call that was taken is in ``_taken`` until it starts.
        self._waiting: dict[str, InferCall] = {}
        self._taken: dict[str, InferCall] = {}
        self._closed: WindrowError | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    def put(self, call: InferCall) -> None:
        """Add a call. Raises `QueueFull`, or the error that `close` received."""
        with self._changed:
            if self._closed is not None:
                raise type(self._closed)(self._closed.detail)
            if len(self) >= self._max_size:
                raise QueueFull(
                    f"the queue holds {len(self)} requests, which is max_queue_size; await some results first"
                )
            self._waiting[call.id] = call
            self._changed.notify()

    def take(self, room: int) -> list[InferCall]:
        """Take up to ``room`` calls from the front; wait for the first. Empty after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            ids = [] if self._closed else list(self._waiting)[:room]
            taken = [self._waiting.pop(id) for id in ids]
            self._taken.update((call.id, call) for call in taken)
            return taken

    def start(self, id: str) -> InferCall | None:
        """Stop counting a taken call, which starts or fails now; None if it was withdrawn."""
        with self._changed:
            return self._taken.pop(id, None)

    def withdraw(self, call: InferCall) -> None:
        """Remove a call that has not started, because its caller was canceled."""
        with self._changed:
            self._waiting.pop(call.id, None)
            self._taken.pop(call.id, None)

    def close(self, error: WindrowError) -> list[InferCall]:
        """Refuse further calls with ``error``; return those that have not started."""
        with self._changed:
            self._closed = error
            remaining = [*self._taken.values(), *self._waiting.values()]
            self._taken.clear()
            self._waiting.clear()
            self._changed.notify_all()
            return remaining
