"""Server-sent events (the HTML standard, section 9.2): a prediction's event stream, from any API process.

Pieces of output come as workers told them in Redis; the last event carries the prediction itself, whether anything was
told before or not. ``id:`` is the event's place in the stream, so that ``Last-Event-ID`` goes on right behind it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from flask import Flask, Response, request
from redis.exceptions import RedisError

from windrow.api.auth.tenants import current_tenant
from windrow.api.service import LOOK_S, Service
from windrow.api.subscriptions.event_followers import Follower
from windrow.api.subscriptions.waiters import Waiter
from windrow.errors import MalformedRequest, WindrowError
from windrow.scheduler.queue import Prediction
from windrow.scheduler.queue.events import (
    BEGINNING,
    COMPLETED,
    ERROR,
    LAST,
    METRIC,
    OUTPUT,
    PLACE,
    Event,
    is_gap,
    last_event,
)
from windrow.scheduler.queue.prediction_view import prediction_json
from windrow.scheduler.queue.records import describe

log = logging.getLogger("windrow.api")
CONTENT_TYPE = "text/event-stream"
#: A comment is sent after so long without an event, so that nobody on the way takes the connection for dead. Seconds.
KEEP_ALIVE_S = 15.0
#: Between two tries to read while Redis is away, in seconds.
AWAY_S = 1.0
#: How long a client is to wait before it connects again.
RETRY = b"retry: 1000\n\n"
KEEP_ALIVE = b": \n\n"
BEHIND = b": pieces are lost that came too long ago; the last event has the whole output\n\n"


def register(app: Flask, service: Service) -> None:
    """Add the route to ``app``."""

    def events(id: str) -> Response:
        after = parse_last_event_id(request.headers.get("Last-Event-ID"))
        found = service.find(id, current_tenant())
        if found.is_ended and after == last_place(service, found):
            # The standard's way to say that there is nothing to connect again for.
            return Response(status=204)
        return stream(service, found, after)

    app.add_url_rule("/v1/predictions/<id>/events", "events", events, methods=["GET"])


def stream(
    service: Service, found: Prediction, after: str = BEGINNING, has_hung_up: Callable[[], bool] | None = None
) -> Response:
    """The event stream of ``found`` behind ``after``; with ``has_hung_up``, a client that leaves cancels it."""
    base_url = request.host_url.rstrip("/")
    chunks = EventStream(service, found, after, base_url, has_hung_up).chunks()
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Location": f"/v1/predictions/{found.id}"}
    return Response(chunks, 200, headers, content_type=CONTENT_TYPE)


def parse_last_event_id(header: str | None) -> str:
    """The place behind which a client wants to go on; raises `MalformedRequest`."""
    if not header:  # browsers send it empty before the first event
        return BEGINNING
    if not PLACE.fullmatch(header):
        raise MalformedRequest(f"Last-Event-ID takes the id of an event, such as 1769860800000-3, not {header[:50]!r}")
    return header


def last_place(service: Service, ended: Prediction) -> str:
    """The place of the last event of a prediction; one is made up where nobody had wanted its stream."""
    last = last_event(service.redis, ended.id)
    return last.place if last is not None and last.type in LAST else made_up_place(ended)


def made_up_place(ended: Prediction) -> str:
    """The same in every API process."""
    return f"{int((ended.completed_s or 0.0) * 1000)}-0"


class EventStream:
    """What one client is sent, piece by piece."""

    def __init__(
        self,
        service: Service,
        found: Prediction,
        after: str,
        base_url: str,
        has_hung_up: Callable[[], bool] | None = None,
    ) -> None:
        self._service = service
        self._found = found
        self._base_url = base_url
        self._has_hung_up = has_hung_up
        #: Of the last event that was seen, and whether that is the last there is.
        self._place = after
        self._has_last = False
        self._is_behind = False
        self._sent_s = time.monotonic()

    def chunks(self) -> Iterator[bytes]:
        """Everything from the first event to the last; less where the server stops, or the client leaves."""
        try:
            yield RETRY
            with self._service.followers.follow(self._found.id, self._place) as (follower, waiter):
                yield from self._follow(follower, waiter)
        except GeneratorExit:  # the client has left
            self._leave()
            raise

    def _follow(self, follower: Follower, waiter: Waiter) -> Iterator[bytes]:
        is_to_look = True
        while not (waiter.is_over and waiter.ended() is None):  # the server stops: the client goes on elsewhere
            try:
                # Asked before the read: what was told before the end is found by it.
                ended = waiter.ended() or (self._look() if is_to_look else None)
                events = follower.take_all() if ended else follower.take()
            except RedisError as error:
                log.warning("an event stream waits for Redis: %s: %s", type(error).__name__, error)
                ended, events = None, []
                time.sleep(AWAY_S)
            except WindrowError as error:  # Redis has lost it
                yield frame(None, ERROR, {"id": self._found.id, "error": describe(error)})
                return
            chunk = b"".join(map(self._render, events))
            if ended is not None:
                yield chunk + self._last(ended)
                return
            is_to_look = self._has_last
            if not chunk and time.monotonic() > self._sent_s + KEEP_ALIVE_S:
                chunk, is_to_look = KEEP_ALIVE, True
            if chunk:
                self._sent_s = time.monotonic()
                yield chunk
            if not is_to_look and not self._wait(follower):
                return self._leave()

    def _look(self) -> Prediction | None:
        """The prediction, where it has ended; raises `WindrowError` where it is gone."""
        found = self._service.find(self._found.id, self._found.tenant)
        return found if found.is_ended else None

    def _wait(self, follower: Follower) -> bool:
        """Wait for something to send; False where the client was seen to have left."""
        while (left_s := self._sent_s + KEEP_ALIVE_S - time.monotonic()) > 0:
            if self._has_hung_up is None:
                follower.news.wait(left_s)
                break
            if follower.news.wait(min(LOOK_S, left_s)):
                break
            if self._has_hung_up():
                return False
        return True

    def _leave(self) -> None:
        """Cancel what nobody reads any more, where that was asked for."""
        if self._has_hung_up is not None:
            with suppress(RedisError, WindrowError):
                self._service.cancel(self._found.id, self._found.tenant)

    def _render(self, event: Event) -> bytes:
        """An event as it is sent; nothing for the last, which is sent with the prediction, and for what makes no sense.

        Output behind a gap would be glued to the wrong place; an attempt that begins anew closes it.
        """
        was_behind = self._is_behind
        self._is_behind = is_gap(self._place, event) or (was_behind and event.type in (OUTPUT, METRIC))
        self._place, self._has_last = event.place, event.type in LAST
        if self._has_last:
            return b""
        if self._is_behind:
            return b"" if was_behind else BEHIND
        return frame(event.place, event.type, event.data)

    def _last(self, ended: Prediction) -> bytes:
        kind = COMPLETED if ended.status == "succeeded" else ERROR
        place = self._place if self._has_last else made_up_place(ended)
        return frame(place, kind, prediction_json(ended, self._base_url))


def frame(place: str | None, kind: str, data: bytes | dict[str, Any]) -> bytes:
    """One event as the standard has it; JSON has no line breaks outside of strings, and none in them."""
    id = b"" if place is None else b"id: %b\n" % place.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (id, kind.encode(), data if isinstance(data, bytes) else orjson.dumps(data))
