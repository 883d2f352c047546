"""A prediction's event stream as server-sent events (HTML standard, section 9.2), from any API process.

The events come from the Redis stream that the worker writes; the last one carries the finished prediction. The ``id:``
of each event is its place in that stream, so that a client resumes with ``Last-Event-ID``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from flask import Response, request
from redis.exceptions import RedisError

from windrow import errors as core
from windrow.api.auth.tenants import current_tenant
from windrow.api.http.headers import ID_PATH, LAST_EVENT_ID, parse_last_event_id
from windrow.api.http.responses import EVENT_STREAM, KEEP_ALIVE, KEEP_ALIVE_S, base_url, event_stream_response
from windrow.api.http.route import READ_ERRORS, Answer, Route
from windrow.api.service import LOOK_S, Service
from windrow.api.subscriptions.event_followers import Follower
from windrow.api.subscriptions.waiters import Waiter
from windrow.scheduler.queue import Prediction
from windrow.scheduler.queue.events import BEGINNING, COMPLETED, ERROR, LAST, METRIC, OUTPUT, Event, is_gap, last_event
from windrow.scheduler.queue.prediction import prediction_json
from windrow.scheduler.queue.results import describe

log = logging.getLogger("windrow.api")
#: Pause before the next read while Redis is unreachable, in seconds.
REDIS_RETRY_S = 1.0
#: Tells the client to reconnect after one second.
RETRY = b"retry: 1000\n\n"
GAP = b": older events have been deleted; the last event has the whole output\n\n"


def events(service: Service, id: str) -> Response:
    """Stream the events of a prediction after ``Last-Event-ID``."""
    after = parse_last_event_id(request.headers.get("Last-Event-ID"))
    prediction = service.find(id, current_tenant())
    if prediction.is_ended and after == last_event_id(service, prediction):
        return Response(status=204)  # tells the client, by the standard, not to reconnect
    return stream(service, prediction, after)


ROUTES = (
    Route(
        "GET", "/v1/predictions/<id>/events", events, "Follow a prediction",
        {
            200: Answer(
                "Server-sent events: start, output, metric, and finally completed or error with the prediction.",
                text_type=EVENT_STREAM,
            ),
            204: Answer("Last-Event-ID names the last event; there are no more."),
        },
        [core.MalformedRequest, *READ_ERRORS],
        parameters=[ID_PATH, LAST_EVENT_ID],
    ),
)  # fmt: skip


def stream(
    service: Service, prediction: Prediction, after: str = BEGINNING, has_hung_up: Callable[[], bool] | None = None
) -> Response:
    """Return the events of ``prediction`` after the id ``after``.

    With ``has_hung_up``, the prediction is canceled if the client disconnects.
    """
    chunks = EventStream(service, prediction, after, base_url(), has_hung_up).chunks()
    return event_stream_response(chunks, {"Location": f"/v1/predictions/{prediction.id}"})


def last_event_id(service: Service, finished: Prediction) -> str:
    """Return the id of the last event of a finished prediction, also if its events were not recorded."""
    last = last_event(service.redis, finished.id)
    return last.place if last is not None and last.type in LAST else fallback_event_id(finished)


def fallback_event_id(finished: Prediction) -> str:
    """Return an id for the last event of a prediction without recorded events; every API process returns the same."""
    return f"{int((finished.completed_s or 0.0) * 1000)}-0"


class EventStream:
    """The event stream of one client."""

    def __init__(
        self,
        service: Service,
        prediction: Prediction,
        after: str,
        base_url: str,
        has_hung_up: Callable[[], bool] | None = None,
    ) -> None:
        self._service = service
        self._prediction = prediction
        self._base_url = base_url
        self._has_hung_up = has_hung_up
        #: Place of the last event read from Redis.
        self._place = after
        #: Whether that event ends the stream.
        self._has_last = False
        #: Whether events before the next one were deleted; its output would not fit to what the client has.
        self._is_behind = False
        self._sent_s = time.monotonic()

    def chunks(self) -> Iterator[bytes]:
        """Yield encoded events until the last one, or until the server stops or the client disconnects."""
        try:
            yield RETRY
            with self._service.followers.follow(self._prediction.id, self._place) as (follower, waiter):
                yield from self._follow(follower, waiter)
        except GeneratorExit:  # the client has disconnected
            self._cancel()
            raise

    def _follow(self, follower: Follower, waiter: Waiter) -> Iterator[bytes]:
        must_look = True
        while not (waiter.is_over and waiter.ended() is None):  # when the server stops, the client reconnects elsewhere
            try:
                # The result is looked up before the events: then the read includes every event published before it.
                finished = waiter.ended() or (self._find_finished() if must_look else None)
                events = follower.take_all() if finished else follower.take()
            except RedisError as error:
                log.warning("an event stream waits for Redis: %s: %s", type(error).__name__, error)
                finished, events = None, []
                time.sleep(REDIS_RETRY_S)
            except core.WindrowError as error:  # the prediction no longer exists in Redis
                yield encode_event(None, ERROR, {"id": self._prediction.id, "error": describe(error)})
                return
            chunk = b"".join(map(self._render, events))
            if finished is not None:
                yield chunk + self._render_last(finished)
                return
            must_look = self._has_last
            if not chunk and time.monotonic() > self._sent_s + KEEP_ALIVE_S:
                chunk, must_look = KEEP_ALIVE, True
            if chunk:
                self._sent_s = time.monotonic()
                yield chunk
            if not must_look and not self._wait(follower):
                return self._cancel()

    def _find_finished(self) -> Prediction | None:
        """Read the prediction; None if it has not finished. Raises `WindrowError` if it is gone."""
        prediction = self._service.find(self._prediction.id, self._prediction.tenant)
        return prediction if prediction.is_ended else None

    def _wait(self, follower: Follower) -> bool:
        """Wait until there is something to send; return False if the client has disconnected."""
        while (left_s := self._sent_s + KEEP_ALIVE_S - time.monotonic()) > 0:
            if self._has_hung_up is None:
                follower.news.wait(left_s)
                break
            if follower.news.wait(min(LOOK_S, left_s)):
                break
            if self._has_hung_up():
                return False
        return True

    def _cancel(self) -> None:
        """Cancel the prediction if the client asked for that on disconnect."""
        if self._has_hung_up is not None:
            with suppress(RedisError, core.WindrowError):
                self._service.cancel(self._prediction.id, self._prediction.tenant)

    def _render(self, event: Event) -> bytes:
        """Encode an event.

        The last event is empty here, because `_render_last` sends it with the prediction. Output after a gap is
        dropped until the next attempt starts: the client would append it in the wrong place.
        """
        was_behind = self._is_behind
        self._is_behind = is_gap(self._place, event) or (was_behind and event.type in (OUTPUT, METRIC))
        self._place, self._has_last = event.place, event.type in LAST
        if self._has_last:
            return b""
        if self._is_behind:
            return b"" if was_behind else GAP
        return encode_event(event.place, event.type, event.data)

    def _render_last(self, finished: Prediction) -> bytes:
        kind = COMPLETED if finished.status == "succeeded" else ERROR
        place = self._place if self._has_last else fallback_event_id(finished)
        return encode_event(place, kind, prediction_json(finished, self._base_url))


def encode_event(id: str | None, kind: str, data: bytes | dict[str, Any]) -> bytes:
    """Encode one server-sent event; ``data`` is JSON, which has no line breaks."""
    head = b"" if id is None else b"id: %b\n" % id.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (head, kind.encode(), data if isinstance(data, bytes) else orjson.dumps(data))
