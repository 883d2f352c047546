"""Errors as HTTP responses: one table from error class to status, and Flask's error handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask, Response, request
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException

from windrow import errors as core
from windrow.api.http.error_format import PROBLEM, ErrorFormat
from windrow.api.http.responses import whole_seconds
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.queue.refusals import is_full

log = logging.getLogger("windrow.api")

#: RFC 6750: a challenge names a realm.
CHALLENGE = 'Bearer realm="windrow"'
#: Key in the WSGI environ of a request whose connection must close because its body was not read to the end.
CLOSE = "windrow.close"


@dataclass(frozen=True, slots=True)
class HttpError:
    """Status, title and ``Retry-After`` of one error class."""

    status: int
    title: str
    #: Seconds for ``Retry-After`` if the error itself has none; None for no such header.
    retry_after_s: int | None = None


ERRORS: dict[type[core.WindrowError], HttpError] = {
    core.WindrowError: HttpError(500, "Internal error"),
    core.MalformedRequest: HttpError(400, "Malformed request"),
    core.Unauthorized: HttpError(401, "Unauthorized"),
    core.UnknownModel: HttpError(404, "Unknown model"),
    core.UnknownPrediction: HttpError(404, "Unknown prediction"),
    core.Canceled: HttpError(409, "Canceled"),
    core.PredictionGone: HttpError(410, "Prediction gone"),
    core.PayloadTooLarge: HttpError(413, "Body too large"),
    core.InvalidInput: HttpError(422, "Invalid input"),
    core.InputTooLong: HttpError(422, "Input too long"),
    core.IdempotencyConflict: HttpError(422, "Idempotency key used before"),
    core.QueueFull: HttpError(429, "Queue full", 1),
    core.QuotaExceeded: HttpError(429, "Quota exceeded", 1),
    core.ModelFailed: HttpError(500, "Model failed"),
    core.OutOfMemory: HttpError(500, "Out of device memory"),
    core.AttemptsExhausted: HttpError(500, "Attempts exhausted"),
    core.ModelUnusable: HttpError(500, "Model unusable"),
    core.InvalidSetting: HttpError(500, "Invalid setting"),
    core.UpstreamFailed: HttpError(502, "Upstream failed"),
    core.NoWorker: HttpError(503, "No worker", 5),
    core.NewerRecord: HttpError(503, "Newer record", 2),
    core.Stopping: HttpError(503, "Stopping", 1),
    core.RedisUnavailable: HttpError(503, "Redis unavailable", 2),
    core.DeadlineExceeded: HttpError(504, "Deadline exceeded"),
}

#: Codes of HTTP errors that have no error class, by status; any other code is derived from the status's name.
HTTP_CODES = {400: "malformed_request", 404: "unknown_route", 405: "method_not_allowed", 406: "not_acceptable"}


def http_error(error: core.WindrowError) -> HttpError:
    """Return the entry of ``error``'s class in `ERRORS`, or that of its nearest base class."""
    return next(ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS)


def register(app: Flask, format_of: Callable[[str], ErrorFormat] = lambda path: PROBLEM) -> None:
    """Answer every error of ``app`` in the format that ``format_of`` returns for the request's path."""
    responses = ErrorResponses(format_of)
    app.register_error_handler(core.WindrowError, responses.for_windrow_error)
    app.register_error_handler(RedisError, responses.for_redis_error)
    app.register_error_handler(HTTPException, responses.for_http_error)
    app.register_error_handler(Exception, responses.for_unexpected_error)


class ErrorResponses:
    """Makes the response for an error of the current request."""

    def __init__(self, format_of: Callable[[str], ErrorFormat]) -> None:
        self._format_of = format_of

    def for_windrow_error(self, error: core.WindrowError) -> Response:
        """Answer an error of `windrow.errors`."""
        entry = http_error(error)
        response = self._response(entry.status, entry.title, error.detail, error.code)
        if entry.retry_after_s is not None:
            response.headers["Retry-After"] = whole_seconds(error.retry_after_s or entry.retry_after_s)
        if not error.retryable:
            response.headers.update(self._format_of(request.path).no_retry_headers)
        if entry.status == 401:
            response.headers["WWW-Authenticate"] = CHALLENGE
        return response

    def for_redis_error(self, error: RedisError) -> Response:
        """Answer 503: Redis is unreachable, still loading, or out of memory."""
        log.warning("Redis: %s: %s", type(error).__name__, error)
        if is_full(error):
            detail = "Redis's memory is full; try again once some results have expired"
        else:
            detail = "Redis did not accept the request; try again in a moment"
        return self.for_windrow_error(core.RedisUnavailable(detail))

    def for_http_error(self, error: HTTPException) -> Response:
        """Answer an error of HTTP itself: an unknown route, or a method that the route does not have."""
        status = error.code or 500
        code = HTTP_CODES.get(status, error.name.lower().replace(" ", "_"))
        response = self._response(status, error.name, _describe_http_error(error, status), code)
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    def for_unexpected_error(self, error: Exception) -> Response:
        """Answer 500 and log the error's class and place; neither the log nor the client gets its message."""
        log.error("%s %s failed: %s", request.method, request.url_rule, describe_exception(error))
        return self.for_windrow_error(core.WindrowError("the server failed on this request; its log has the details"))

    def _response(self, status: int, title: str, detail: str, code: str) -> Response:
        error_format = self._format_of(request.path)
        status = error_format.statuses.get(status, status)
        body = error_format.encode(status, title, detail, code)
        response = Response(body, status, content_type=error_format.content_type)
        if request.environ.get(CLOSE):
            response.headers["Connection"] = "close"
        return response


def _describe_http_error(error: HTTPException, status: int) -> str:
    if status == 404:
        return f"there is nothing at {request.path}; /openapi.json lists the routes"
    if status == 405:
        allowed = ", ".join(sorted(set(getattr(error, "valid_methods", None) or ()) - {"HEAD"}))
        return f"{request.path} takes {allowed}, not {request.method}"
    return error.description or error.name
