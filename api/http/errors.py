"""Errors -> HTTP, in one table; an error leaves as ``application/problem+json`` (RFC 9457), or in OpenAI's shape."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import orjson
from flask import Flask, Response, request
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException

from windrow import errors as core
from windrow.api.openai.errors import SHOULD_RETRY, is_openai_path, openai_json, openai_status
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.queue.refusals import is_full

log = logging.getLogger("windrow.api")

#: RFC 6750: a challenge names a realm.
CHALLENGE = 'Bearer realm="windrow"'
#: In the WSGI environ of a request whose connection cannot go on, because its body was not read to the end.
CLOSE = "windrow.close"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one class of error leaves."""

    status: int
    title: str
    #: Seconds for ``Retry-After`` where the error names none; None for no such header.
    retry_after_s: int | None = None


TABLE: dict[type[core.WindrowError], ErrorRow] = {
    core.WindrowError: ErrorRow(500, "Internal error"),
    core.MalformedRequest: ErrorRow(400, "Malformed request"),
    core.Unauthorized: ErrorRow(401, "Unauthorized"),
    core.UnknownModel: ErrorRow(404, "Unknown model"),
    core.UnknownPrediction: ErrorRow(404, "Unknown prediction"),
    core.Canceled: ErrorRow(409, "Canceled"),
    core.PredictionGone: ErrorRow(410, "Prediction gone"),
    core.PayloadTooLarge: ErrorRow(413, "Body too large"),
    core.InvalidInput: ErrorRow(422, "Invalid input"),
    core.InputTooLong: ErrorRow(422, "Input too long"),
    core.IdempotencyConflict: ErrorRow(422, "Idempotency key used before"),
    core.QueueFull: ErrorRow(429, "Queue full", 1),
    core.QuotaExceeded: ErrorRow(429, "Quota exceeded", 1),
    core.ModelFailed: ErrorRow(500, "Model failed"),
    core.OutOfMemory: ErrorRow(500, "Out of device memory"),
    core.AttemptsExhausted: ErrorRow(500, "Attempts exhausted"),
    core.ModelUnusable: ErrorRow(500, "Model unusable"),
    core.InvalidSetting: ErrorRow(500, "Invalid setting"),
    core.UpstreamFailed: ErrorRow(502, "Upstream failed"),
    core.NoWorker: ErrorRow(503, "No worker", 5),
    core.NewerRecord: ErrorRow(503, "Newer record", 2),
    core.Stopping: ErrorRow(503, "Stopping", 1),
    core.RedisUnavailable: ErrorRow(503, "Redis unavailable", 2),
    core.DeadlineExceeded: ErrorRow(504, "Deadline exceeded"),
}

#: HTTP's own errors, which are no class of ours; anything else is named after its status.
HTTP_CODES = {400: "malformed_request", 404: "unknown_route", 405: "method_not_allowed", 406: "not_acceptable"}


def describe(error: core.WindrowError) -> ErrorRow:
    """The row of ``error``'s class, or of the nearest class above it."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def problem_json(status: int, title: str, detail: str, code: str) -> bytes:
    """The body of a problem: ``type, title, status, detail, code``."""
    members = {"type": f"urn:windrow:error:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return orjson.dumps(members)


def whole_seconds(seconds: float | None) -> str:
    """The value of a ``Retry-After`` header: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds or 1)))


def register(app: Flask) -> None:
    """Answer every error of ``app`` with a problem document."""
    app.register_error_handler(core.WindrowError, answer_windrow)
    app.register_error_handler(RedisError, answer_redis)
    app.register_error_handler(HTTPException, answer_http)
    app.register_error_handler(Exception, answer_unexpected)


def answer_windrow(error: core.WindrowError) -> Response:
    """An error of our own tree."""
    row = describe(error)
    response = _problem(row.status, row.title, error.detail, error.code)
    if row.retry_after_s is not None:
        response.headers["Retry-After"] = whole_seconds(error.retry_after_s or row.retry_after_s)
    if is_openai_path(request.path) and not error.retryable:
        response.headers[SHOULD_RETRY] = "false"
    if row.status == 401:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def answer_redis(error: RedisError) -> Response:
    """Redis is away, is loading, or is too full to take more in."""
    log.warning("Redis: %s: %s", type(error).__name__, error)
    if is_full(error):
        return answer_windrow(core.RedisUnavailable("Redis's memory is full; try again once some results have expired"))
    return answer_windrow(core.RedisUnavailable("Redis did not take the request; try again in a moment"))


def answer_http(error: HTTPException) -> Response:
    """An error of HTTP itself: no such route, a method that the route has not."""
    status = error.code or 500
    code = HTTP_CODES.get(status, error.name.lower().replace(" ", "_"))
    response = _problem(status, error.name, _details(error, status), code)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def answer_unexpected(error: Exception) -> Response:
    """A fault of ours: what raised and where goes to the log, the client gets none of it."""
    log.error("%s %s failed: %s", request.method, request.url_rule, describe_exception(error))
    return answer_windrow(core.WindrowError("the server failed on this request; its log has the details"))


def _details(error: HTTPException, status: int) -> str:
    if status == 404:
        return f"there is nothing at {request.path}; /openapi.json lists what there is"
    if status == 405:
        allowed = ", ".join(sorted(set(getattr(error, "valid_methods", None) or ()) - {"HEAD"}))
        return f"{request.path} takes {allowed}, not {request.method}"
    return error.description or error.name


def _problem(status: int, title: str, detail: str, code: str) -> Response:
    if is_openai_path(request.path):
        status = openai_status(status)
        response = Response(openai_json(status, detail, code), status, content_type="application/json")
    else:
        body = problem_json(status, title, detail, code)
        response = Response(body, status, content_type="application/problem+json")
    if request.environ.get(CLOSE):
        response.headers["Connection"] = "close"
    return response
