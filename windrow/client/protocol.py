"""The client's side of the REST contract with no I/O in it: both clients drive the same generators.

A *flow* is a generator that yields what to do next, a `HttpCall` to send or a `Sleep` to make, is sent what came of
it, and
returns the result. Retries, polling and the reading of answers live here once; a driver is a loop of a few lines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import orjson

from windrow.client.prediction import Prediction
from windrow.errors import ClientError, RequestRefused, ServerUnreachable

T = TypeVar("T")

#: The longest that the server holds one request, in seconds (``Prefer: wait``, ``?wait``).
MAX_WAIT_S = 60
#: Tries before a server that cannot be reached is reported; about 1.5 s of pauses.
CONNECTION_ATTEMPTS = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
#: Between two polls when the server did not hold the first one.
POLL_PAUSE_S = 0.1
#: Refused for now. 429 is said before anything is queued; the others leave that open, so they need a safe call.
REFUSED_BEFORE_WORK = frozenset({429})
REFUSED_FOR_NOW = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP request to send."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    #: How long the server may hold it on purpose, in seconds.
    hold_s: float = 0.0
    #: Whether sending it twice is the same as sending it once.
    is_safe: bool = True


@dataclass(frozen=True, slots=True)
class Sleep:
    """Seconds to let pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """No answer came."""

    detail: str
    #: False where the server cannot have seen the request.
    was_sent: bool


Flow = Generator[HttpCall | Sleep, Reply | NoReply | None, T]


class Flows:
    """One method for each method of the clients; ``clock`` gives monotonic seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock

    def submit(self, request: Mapping[str, Any], idempotency_key: str | None, wait_s: float = 0.0) -> Flow[Prediction]:
        """Queue one request; the server holds the answer for up to ``wait_s``."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        hold_s = _whole_seconds(wait_s)
        if hold_s:
            headers["Prefer"] = f"wait={hold_s}"
        body = yield from self._exchange(HttpCall("POST", "/v1/predictions", request, headers, hold_s=hold_s))
        return read_prediction(body)

    def submit_many(self, request: Mapping[str, Any]) -> Flow[list[Prediction]]:
        """Queue many inputs, all or none. Not sent again where the first try may have been queued."""
        body = yield from self._exchange(HttpCall("POST", "/v1/predictions:batch", request, is_safe=False))
        return read_list(body, "predictions", read_prediction)

    def predict(self, request: Mapping[str, Any], idempotency_key: str | None, wait_s: float) -> Flow[Prediction]:
        """Queue one request and follow it for ``wait_s``."""
        end_s = self._clock() + wait_s
        prediction = yield from self.submit(request, idempotency_key, wait_s)
        return (yield from self._follow(prediction, end_s))

    def wait(self, id: str, timeout_s: float) -> Flow[Prediction]:
        """Follow ``id`` for ``timeout_s``."""
        end_s = self._clock() + timeout_s
        prediction = yield from self.get(id, timeout_s)
        return (yield from self._follow(prediction, end_s))

    def get(self, id: str, wait_s: float | None = None) -> Flow[Prediction]:
        """Ask for ``id``; the server holds the answer for up to ``wait_s`` while it has not ended."""
        hold_s = _whole_seconds(wait_s or 0.0)
        params = {"wait": str(hold_s)} if hold_s else {}
        body = yield from self._exchange(HttpCall("GET", _path(id), params=params, hold_s=hold_s))
        return read_prediction(body)

    def cancel(self, id: str) -> Flow[Prediction]:
        """Cancel ``id``; one that has ended stays as it is."""
        return read_prediction((yield from self._exchange(HttpCall("POST", f"{_path(id)}/cancel"))))

    def models(self) -> Flow[list[dict[str, Any]]]:
        """List the models."""
        return read_list((yield from self._exchange(HttpCall("GET", "/v1/models"))), "data", dict)

    def _follow(self, prediction: Prediction, end_s: float) -> Flow[Prediction]:
        while not prediction.is_ended and (left_s := end_s - self._clock()) > 0:
            asked_s = self._clock()
            prediction = yield from self.get(prediction.id, left_s)
            if not prediction.is_ended and self._clock() - asked_s < POLL_PAUSE_S:
                yield Sleep(min(POLL_PAUSE_S, left_s))
        return prediction

    def _exchange(self, call: HttpCall) -> Flow[Any]:
        """Send ``call`` until it is answered, retrying what may be retried within the timeout."""
        end_s = self._clock() + self._timeout_s + call.hold_s
        for attempt in count(1):
            reply = yield call
            assert reply is not None
            error = read_error(reply)
            if error is None and isinstance(reply, Reply):
                return orjson.loads(reply.body)
            assert error is not None
            if not may_retry(call, reply, attempt):
                raise error
            pause_s = backoff_s(attempt) if error.retry_after_s is None else error.retry_after_s
            if self._clock() + pause_s > end_s:
                raise error
            yield Sleep(pause_s)
        raise AssertionError("unreachable")


def build_request(
    model: str,
    *,
    parameters: Mapping[str, Any] | None,
    priority: str,
    deadline_ms: float | None,
    stream: bool = False,
    **inputs: Any,
) -> dict[str, Any]:
    """The body of a submit; ``inputs`` is ``input=`` for one request and ``inputs=`` for many."""
    request: dict[str, Any] = {"model": model, **inputs, "priority": priority}
    if parameters is not None:
        request["parameters"] = dict(parameters)
    if deadline_ms is not None:
        request["deadline_ms"] = deadline_ms
    if stream:
        request["stream"] = True
    return request


def may_retry(call: HttpCall, reply: Reply | NoReply, attempt: int) -> bool:
    """Whether sending ``call`` again can neither do its work twice nor is hopeless."""
    if isinstance(reply, NoReply):
        return attempt < CONNECTION_ATTEMPTS and (call.is_safe or not reply.was_sent)
    return reply.status in (REFUSED_FOR_NOW if call.is_safe else REFUSED_BEFORE_WORK)


def backoff_s(attempt: int) -> float:
    """Pause after the ``attempt``-th try, in seconds: doubling, spread so that clients do not return together."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.75, 1.0)


def read_error(reply: Reply | NoReply) -> ClientError | None:
    """The error in an answer (RFC 9457, or OpenAI's shape), or None."""
    if isinstance(reply, NoReply):
        return ServerUnreachable(reply.detail)
    problem = _json_object(reply.body)
    if reply.status < 300:
        return None if problem is not None else _foreign(reply)
    if problem is not None and isinstance(problem.get("error"), dict):
        problem = {**problem["error"], "detail": problem["error"].get("message")}
    if problem is None or not isinstance(problem.get("code"), str):
        return _foreign(reply)
    detail = str(problem.get("detail") or problem.get("title") or problem["code"])
    return RequestRefused(
        detail, code=problem["code"], status=reply.status, retry_after_s=_retry_after_s(reply.retry_after)
    )


def read_prediction(body: Any) -> Prediction:
    """Build a `Prediction`; raises `RequestRefused` where the answer is not one."""
    try:
        return Prediction.from_json(body)
    except (KeyError, TypeError, AttributeError):
        raise RequestRefused("the answer is not a prediction; is this a Windrow server?", code="bad_answer") from None


def read_list(body: Any, name: str, read: Callable[[Any], T]) -> list[T]:
    """Read every item of ``body[name]``; raises `RequestRefused` where there is no such list."""
    items = body.get(name) if isinstance(body, dict) else None
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise RequestRefused(f"the answer has no list {name!r}; is this a Windrow server?", code="bad_answer")
    return [read(item) for item in items]


def _foreign(reply: Reply) -> RequestRefused:
    return RequestRefused(
        f"HTTP {reply.status} without a Windrow answer; is this a Windrow server?",
        code=f"http_{reply.status}" if reply.status >= 300 else "bad_answer",
        status=reply.status,
        retry_after_s=_retry_after_s(reply.retry_after),
    )


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _retry_after_s(header: str | None) -> float | None:
    # The HTTP-date form is never sent by Windrow; a proxy's is left to the backoff.
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _whole_seconds(wait_s: float) -> int:
    return max(0, min(MAX_WAIT_S, math.ceil(wait_s)))


def _path(id: str) -> str:
    return f"/v1/predictions/{quote(id, safe='')}"
