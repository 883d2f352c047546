"""The REST calls of both clients without I/O: requests, retries, polling and replies.

A *flow* is a generator that makes one call of a client. It yields the next step, an `HttpCall` or a `Sleep`, is sent
the outcome of that step (a `Reply` or `NoReply`; None for a `Sleep`), and returns the result of the call. Each client
runs flows in a loop of a few lines.
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

from windrow.backoff import Backoff
from windrow.client.prediction import Prediction
from windrow.errors import ClientError, RequestRefused, ServerUnreachable

T = TypeVar("T")

#: Longest time for which the server waits for a result before it answers, in seconds (``Prefer: wait``, ``?wait``).
MAX_WAIT_S = 60
#: Attempts before a server is reported as unreachable, with pauses of about 1.5 s in total.
CONNECTION_ATTEMPTS = 5
BACKOFF = Backoff(first_s=0.1, max_s=2.0, jitter=(0.75, 1.0))
#: Pause between two polls if the server answered the first one at once, in seconds.
POLL_PAUSE_S = 0.1
#: Statuses after which every call is retried: a server that answers 429 has queued nothing.
RETRYABLE_ALWAYS = frozenset({429})
#: Statuses after which an idempotent call is retried: the server may have queued its request.
RETRYABLE_IF_SAFE = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP request to send."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    #: How long the server waits for the result before it answers, in seconds.
    hold_s: float = 0.0
    #: Whether the call is idempotent, so that it can be repeated.
    is_safe: bool = True


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP response."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """A request that got no response."""

    detail: str
    #: False if the server cannot have received the request.
    was_sent: bool


Flow = Generator[HttpCall | Sleep, Reply | NoReply | None, T]


class Flows:
    """One flow for each method of the clients; ``clock`` returns monotonic seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock

    def submit(self, request: Mapping[str, Any], idempotency_key: str | None, wait_s: float = 0.0) -> Flow[Prediction]:
        """Queue one request; the server waits up to ``wait_s`` for it to finish."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        hold_s = _whole_seconds(wait_s)
        if hold_s:
            headers["Prefer"] = f"wait={hold_s}"
        body = yield from self._exchange(HttpCall("POST", "/v1/predictions", request, headers, hold_s=hold_s))
        return read_prediction(body)

    def submit_many(self, request: Mapping[str, Any]) -> Flow[list[Prediction]]:
        """Queue many inputs, all or none. The call is not retried if the inputs may have been queued."""
        body = yield from self._exchange(HttpCall("POST", "/v1/predictions:batch", request, is_safe=False))
        return read_list(body, "predictions", read_prediction)

    def predict(self, request: Mapping[str, Any], idempotency_key: str | None, wait_s: float) -> Flow[Prediction]:
        """Queue one request and wait up to ``wait_s`` for it to finish."""
        end_s = self._clock() + wait_s
        prediction = yield from self.submit(request, idempotency_key, wait_s)
        return (yield from self._follow(prediction, end_s))

    def wait(self, id: str, timeout_s: float) -> Flow[Prediction]:
        """Wait up to ``timeout_s`` for ``id`` to finish."""
        end_s = self._clock() + timeout_s
        prediction = yield from self.get(id, timeout_s)
        return (yield from self._follow(prediction, end_s))

    def get(self, id: str, wait_s: float | None = None) -> Flow[Prediction]:
        """Get ``id``; the server waits up to ``wait_s`` for it to finish."""
        hold_s = _whole_seconds(wait_s or 0.0)
        params = {"wait": str(hold_s)} if hold_s else {}
        body = yield from self._exchange(HttpCall("GET", _path(id), params=params, hold_s=hold_s))
        return read_prediction(body)

    def cancel(self, id: str) -> Flow[Prediction]:
        """Cancel ``id``; a finished prediction stays unchanged."""
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
        """Send ``call`` and return the JSON of its response; retry within the timeout."""
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
    """Return the body of a submit; ``inputs`` is ``input=`` for one request and ``inputs=`` for many."""
    request: dict[str, Any] = {"model": model, **inputs, "priority": priority}
    if parameters is not None:
        request["parameters"] = dict(parameters)
    if deadline_ms is not None:
        request["deadline_ms"] = deadline_ms
    if stream:
        request["stream"] = True
    return request


def may_retry(call: HttpCall, reply: Reply | NoReply, attempt: int) -> bool:
    """Whether a retry of ``call`` may succeed and cannot run its request twice."""
    if isinstance(reply, NoReply):
        return attempt < CONNECTION_ATTEMPTS and (call.is_safe or not reply.was_sent)
    return reply.status in (RETRYABLE_IF_SAFE if call.is_safe else RETRYABLE_ALWAYS)


def backoff_s(attempt: int) -> float:
    """Return the pause after attempt number ``attempt``, in seconds: doubling, with jitter."""
    return BACKOFF.pause_s(attempt, random.random())


def read_error(reply: Reply | NoReply) -> ClientError | None:
    """Return the error in a response (RFC 9457 or OpenAI's format), or None."""
    if isinstance(reply, NoReply):
        return ServerUnreachable(reply.detail)
    problem = _json_object(reply.body)
    if reply.status < 300:
        return None if problem is not None else _not_windrow(reply)
    if problem is not None and isinstance(problem.get("error"), dict):
        problem = {**problem["error"], "detail": problem["error"].get("message")}
    if problem is None or not isinstance(problem.get("code"), str):
        return _not_windrow(reply)
    detail = str(problem.get("detail") or problem.get("title") or problem["code"])
    return RequestRefused(
        detail, code=problem["code"], status=reply.status, retry_after_s=_retry_after_s(reply.retry_after)
    )


def read_prediction(body: Any) -> Prediction:
    """Build a `Prediction`. Raises `RequestRefused` if the response does not contain one."""
    try:
        return Prediction.from_json(body)
    except (KeyError, TypeError, AttributeError):
        raise RequestRefused("the response is not a prediction; is this a Windrow server?", code="bad_answer") from None


def read_list(body: Any, name: str, read: Callable[[Any], T]) -> list[T]:
    """Read every item of ``body[name]``. Raises `RequestRefused` if there is no such list."""
    items = body.get(name) if isinstance(body, dict) else None
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise RequestRefused(f"the response has no list {name!r}; is this a Windrow server?", code="bad_answer")
    return [read(item) for item in items]


def _not_windrow(reply: Reply) -> RequestRefused:
    return RequestRefused(
        f"HTTP {reply.status} without a response of Windrow; is this a Windrow server?",
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
    # Windrow never sends the date format. If a proxy does, the pause is that of `backoff_s`.
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _whole_seconds(wait_s: float) -> int:
    return max(0, min(MAX_WAIT_S, math.ceil(wait_s)))


def _path(id: str) -> str:
    return f"/v1/predictions/{quote(id, safe='')}"
