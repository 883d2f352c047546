"""Streamed answers: ``data:`` lines with a chunk each, and ``[DONE]``, as OpenAI's clients read them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import orjson
from redis.exceptions import RedisError

from windrow.api.http.errors import describe
from windrow.api.openai.answers import Kind, head
from windrow.api.openai.chunks import Chunks, usage_chunk
from windrow.api.openai.errors import openai_error, openai_status
from windrow.api.openai.names import FieldNames
from windrow.api.openai.requests import cancel_all, require_running, succeeded
from windrow.api.service import LOOK_S, Service, SubmitCall
from windrow.api.subscriptions.event_followers import Follower
from windrow.api.subscriptions.waiters import Waiter
from windrow.errors import WindrowError
from windrow.scheduler.queue import Prediction
from windrow.scheduler.queue.events import BEGINNING

log = logging.getLogger("windrow.api")
#: Between looks at several streams of one call, in seconds.
SEVERAL_LOOK_S = 0.05
#: A comment is sent after so long without a chunk, so that nobody on the way takes the connection for dead. Seconds.
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": \n\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class StreamShape:
    """What the client asked the stream to be like."""

    kind: Kind
    #: Of each prompt.
    choices: int
    includes_usage: bool
    #: In which errors speak of the call.
    names: FieldNames


class AnswerStream:
    """The streamed answer of a call that was submitted: iterate it, and close it whatever happens.

    Closing cancels what has not ended, since nobody would read it.
    """

    def __init__(
        self,
        service: Service,
        call: SubmitCall,
        tenant: str,
        ids: Sequence[str],
        shape: StreamShape,
        has_hung_up: Callable[[], bool],
    ) -> None:
        self._service = service
        self._call = call
        self._tenant = tenant
        self._ids = ids
        self._shape = shape
        self._has_hung_up = has_hung_up
        self._outputs: dict[str, Any] = {}
        self._sent_s = time.monotonic()
        self._body = self._make_body()

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        """Let go of everything; may be called again."""
        self._body.close()
        unread = [id for id in self._ids if id not in self._outputs]
        self._ids = ()
        cancel_all(self._service, self._call.model, unread)

    def _make_body(self) -> Generator[bytes, None, None]:
        try:
            with self._shape.names.in_errors(), ExitStack() as follows:
                followed = {
                    id: follows.enter_context(self._service.followers.follow(id, BEGINNING)) for id in self._ids
                }
                # Whoever ended before this was not waited for.
                found = self._service.accepted(self._call, self._tenant, list(followed))
                yield from self._follow(followed, {one.id: one for one in found if one.is_ended}, found[0].created_s)
        except RedisError as error:
            log.warning("a streamed answer ends: Redis: %s: %s", type(error).__name__, error)
            yield _data(openai_error(503, "Redis is away; send the call again", "redis_unavailable"))
        except WindrowError as error:
            # The status is sent long ago, so the stream says it.
            yield _data(openai_error(openai_status(describe(error).status), error.detail, error.code))

    def _follow(
        self, followed: dict[str, tuple[Follower, Waiter]], ended: dict[str, Prediction], created_s: float
    ) -> Iterator[bytes]:
        first = head(self._shape.kind, next(iter(followed)), created_s, self._call.model)
        count = self._shape.choices
        chunks = {
            id: Chunks(self._shape.kind, first, number * count, count, self._shape.includes_usage)
            for number, id in enumerate(followed)
        }
        wait_s = LOOK_S if len(followed) == 1 else SEVERAL_LOOK_S
        while left := [id for id in followed if id not in self._outputs]:
            made = [chunk for id in left for chunk in self._news(id, *followed[id], chunks[id], ended.get(id))]
            if made:
                yield b"".join(map(_data, made))
                self._sent_s = time.monotonic()
            elif time.monotonic() > self._sent_s + KEEP_ALIVE_S:
                yield KEEP_ALIVE
                self._sent_s = time.monotonic()
            elif not followed[left[0]][0].news.wait(wait_s) and self._has_hung_up():
                return
        if self._shape.includes_usage:
            yield _data(usage_chunk(self._shape.kind, first, [self._outputs[id] for id in followed]))
        yield DONE

    def _news(
        self, id: str, follower: Follower, waiter: Waiter, chunks: Chunks, ended: Prediction | None
    ) -> list[dict[str, Any]]:
        """The chunks of what is new of one request; raises what became of it where it failed."""
        ended = waiter.ended() or ended
        if ended is not None:
            made = chunks.of_end(succeeded(ended).output)
            self._outputs[id] = ended.output
            return made
        require_running(waiter)
        return [chunk for event in follower.take() for chunk in chunks.of(event)]


def _data(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)
