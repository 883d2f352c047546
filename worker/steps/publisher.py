"""Writes the events and the results of generating requests to Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from redis.exceptions import ResponseError

from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import Entry, EventStreams
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from windrow.scheduler.queue.refusals import is_full
from windrow.worker.engines.base import Delta
from windrow.worker.leases.leases import Leases
from windrow.worker.steps.generation_metrics import TIME_TO_FIRST_TOKEN
from windrow.worker.steps.stream_buffer import StreamBuffer

log = logging.getLogger(__name__)


class Publisher:
    """Buffers events and results of one model until one thread writes them. Thread-safe.

    Requests are identified by the engine's name for them; "" for a request that never joined the engine.
    """

    def __init__(self, streams: EventStreams, leases: Leases) -> None:
        #: Set when there is something to publish at once.
        self.urgent = threading.Event()
        self._streams = streams
        self._leases = leases
        self._lock = threading.Lock()
        self._buffer = StreamBuffer()
        self._finished: list[tuple[str, Request]] = []
        #: Entries and results that are being written; kept until Redis has taken them.
        self._writing: list[tuple[str, Entry]] = []
        self._storing: list[tuple[str, Request]] = []
        self._stored_busy_s = 0.0

    def engine_replaced(self, busy_s: float) -> None:
        """Count device time from ``busy_s`` of the new engine on."""
        self._stored_busy_s = busy_s

    def follow(self, key: str, request: Request) -> None:
        """Open the event stream of a request."""
        with self._lock:
            self._buffer.follow(key, request)
        self.urgent.set()

    def add(
        self,
        deltas: Sequence[Delta],
        first_tokens: Sequence[tuple[str, float]],
        finished: Sequence[tuple[str, Request]],
    ) -> None:
        """Buffer the tokens of one step, times to first token in milliseconds, and finished requests."""
        with self._lock:
            was_empty = self._buffer.is_empty
            for key, first_ms in first_tokens:
                self._buffer.add_metric(key, TIME_TO_FIRST_TOKEN, first_ms)
            for delta in deltas:
                self._buffer.add(delta)
            self._finished += finished
            if first_tokens or finished or (was_empty and not self._buffer.is_empty):
                self.urgent.set()

    def drop(self, key: str) -> None:
        """Discard the buffered events of a request that this process no longer holds."""
        with self._lock:
            self._buffer.drop(key)

    def write_events(self) -> list[Request] | None:
        """Write the events that are due; return the requests that turned out to be lost, or None if none were due.

        For the thread that publishes. After a Redis error, the next call repeats what failed.
        """
        with self._lock:
            self._writing = entries = self._writing or self._buffer.take_due(time.monotonic())
        if not entries:
            return None
        ids = self._write(entries)
        with self._lock:
            self._writing = []
            return self._buffer.written(entries, ids)

    def store_finished(self, busy_s: float) -> int:
        """Store the results of finished requests whose events are all written; return how many.

        ``busy_s`` is the engine's total device time. For the thread that publishes; call again after a Redis error.
        """
        finished = self._storable()
        if finished:
            requests = [request for _, request in finished]
            self._leases.finish(requests, busy_s - self._stored_busy_s, may_stream=True)
            self._stored_busy_s = busy_s
            with self._lock:
                self._storing = []
                for key, _ in finished:
                    self._buffer.drop(key)
        return len(finished)

    def wait_s(self) -> float | None:
        """Return in how many seconds there is something to publish; None if nothing is buffered."""
        with self._lock:
            return 0.0 if self._finished else self._buffer.wait_s(time.monotonic())

    def _write(self, entries: Sequence[tuple[str, Entry]]) -> list[str | None]:
        """Return the entry IDs. If Redis is full, drop the streams: it still stores results, which end them."""
        try:
            return self._streams.append([entry for _, entry in entries])
        except ResponseError as error:
            if not is_full(error):
                raise
            model = self._leases.queue.model
            log.warning("model %s: Redis is full; %d events were dropped", model, len(entries))
        with self._lock:
            for key, _ in entries:
                self._buffer.drop(key)
        return [None] * len(entries)

    def _storable(self) -> list[tuple[str, Request]]:
        """Finished requests without buffered events, at most `MAX_REQUESTS_PER_CALL`."""
        with self._lock:
            if not self._storing:
                waiting: list[tuple[str, Request]] = []
                for key, request in self._finished:
                    may_store = len(self._storing) < MAX_REQUESTS_PER_CALL and not self._buffer.is_pending(key)
                    (self._storing if may_store else waiting).append((key, request))
                self._finished = waiting
            return self._storing
