"""Streamed answers: a ``data:`` line for each chunk and finally ``[DONE]``, as OpenAI's clients read them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import orjson
from redis.exceptions import RedisError

from windrow.api.http.errors import http_error
from windrow.api.http.responses import KEEP_ALIVE, KEEP_ALIVE_S
from windrow.api.openai.answers import Kind, head
from windrow.api.openai.chunks import Chunks, usage_chunk
from windrow.api.openai.errors import openai_error
from windrow.api.openai.fields import FieldNames
from windrow.api.openai.requests import cancel_requests, require_running, require_success
from windrow.api.service import LOOK_S, Service
from windrow.api.subscriptions.event_followers import Follower
from windrow.api.subscriptions.waiters import Waiter
from windrow.errors import WindrowError
from windrow.scheduler.queue import Prediction
from windrow.scheduler.queue.events import BEGINNING

log = logging.getLogger("windrow.api")
#: Polling interval of a call with several requests, in seconds: there is one wake-up event for each.
SEVERAL_LOOK_S = 0.05
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How the client wants the stream."""

    kind: Kind
    #: Choices per prompt.
    choices: int
    includes_usage: bool
    #: The client's field names, for errors.
    names: FieldNames


class AnswerStream:
    """The streamed answer of a submitted call: iterate over it, and always close it.

    Closing cancels the requests that have not finished.
    """

    def __init__(
        self,
        service: Service,
        accepted: Sequence[Prediction],
        options: StreamOptions,
        has_hung_up: Callable[[], bool] | None,
    ) -> None:
        self._service = service
        self._accepted = accepted
        self._ids = [prediction.id for prediction in accepted]
        self._options = options
        self._has_hung_up = has_hung_up
        self._outputs: dict[str, Any] = {}
        self._sent_s = time.monotonic()
        self._body = self._make_body()

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        """Cancel the unfinished requests; may be called again."""
        self._body.close()
        unread = [id for id in self._ids if id not in self._outputs]
        self._ids = []
        cancel_requests(self._service, self._accepted[0].model, unread)

    def _make_body(self) -> Generator[bytes, None, None]:
        try:
            with self._options.names.in_errors(), ExitStack() as stack:
                followed = {id: stack.enter_context(self._service.followers.follow(id, BEGINNING)) for id in self._ids}
                # The waiters miss requests that finished before they were registered.
                found = self._service.refresh(self._accepted)
                finished = {prediction.id: prediction for prediction in found if prediction.is_ended}
                yield from self._follow(followed, finished)
        except RedisError as error:
            log.warning("a streamed answer ends: Redis: %s: %s", type(error).__name__, error)
            yield _data(openai_error(503, "Redis is unreachable; send the call again", "redis_unavailable"))
        except WindrowError as error:
            # The status 200 has been sent already, so the stream carries the error.
            yield _data(openai_error(http_error(error).status, error.detail, error.code))

    def _follow(self, followed: dict[str, tuple[Follower, Waiter]], finished: dict[str, Prediction]) -> Iterator[bytes]:
        options, accepted = self._options, self._accepted[0]
        first = head(options.kind, accepted.id, accepted.created_s, accepted.model)
        chunks = {
            id: Chunks(options.kind, first, number * options.choices, options.choices, options.includes_usage)
            for number, id in enumerate(followed)
        }
        wait_s = LOOK_S if len(followed) == 1 else SEVERAL_LOOK_S
        while unfinished := [id for id in followed if id not in self._outputs]:
            new = [chunk for id in unfinished for chunk in self._new(id, *followed[id], chunks[id], finished.get(id))]
            if new:
                yield b"".join(map(_data, new))
                self._sent_s = time.monotonic()
            elif time.monotonic() > self._sent_s + KEEP_ALIVE_S:
                yield KEEP_ALIVE
                self._sent_s = time.monotonic()
            elif not followed[unfinished[0]][0].news.wait(wait_s) and self._has_hung_up and self._has_hung_up():
                return
        if options.includes_usage:
            yield _data(usage_chunk(options.kind, first, [self._outputs[id] for id in followed]))
        yield DONE

    def _new(
        self, id: str, follower: Follower, waiter: Waiter, chunks: Chunks, finished: Prediction | None
    ) -> list[dict[str, Any]]:
        """Return the new chunks of one request; raises its error if it failed."""
        finished = waiter.ended() or finished
        if finished is not None:
            last = chunks.from_output(require_success(finished).output)
            self._outputs[id] = finished.output
            return last
        require_running(waiter)
        return [chunk for event in follower.take() for chunk in chunks.from_event(event)]


def _data(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)
