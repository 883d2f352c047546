"""A route is declared once: Flask's rule, the need of a key and the OpenAPI operation are all made from a `Route`.

The handlers take the process's `Service`, then the parameters of the path. `windrow.api.app.ROUTES` lists all routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flask import Flask, Response
from pydantic import BaseModel

from windrow import errors as core
from windrow.api.http.error_format import PROBLEM, ErrorFormat
from windrow.api.service import Service

Headers = Mapping[str, Mapping[str, Any]]

#: Errors of routes that read a prediction.
READ_ERRORS = (core.UnknownPrediction, core.PredictionGone, core.RedisUnavailable)
#: Errors of routes that submit requests.
SUBMIT_ERRORS = (
    core.MalformedRequest, core.UnknownModel, core.PredictionGone, core.PayloadTooLarge, core.InvalidInput,
    core.InputTooLong, core.IdempotencyConflict, core.QueueFull, core.QuotaExceeded, core.ModelUnusable, core.NoWorker,
    core.RedisUnavailable,
)  # fmt: skip
#: Errors of routes that submit requests and answer with their results.
RESULT_ERRORS = (
    *(error for error in SUBMIT_ERRORS if error not in (core.PredictionGone, core.IdempotencyConflict)), core.Canceled,
    core.ModelFailed, core.OutOfMemory, core.AttemptsExhausted, core.UpstreamFailed, core.Stopping,
    core.DeadlineExceeded,
)  # fmt: skip


def response_header(name: str, description: str, kind: str = "string") -> Headers:
    """Return the OpenAPI description of a response header."""
    return {name: {"description": description, "schema": {"type": kind}}}


RETRY_AFTER = response_header("Retry-After", "Seconds, from the measured queue.", "integer")


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response of a route."""

    description: str
    #: Schema of a JSON body.
    schema: type[BaseModel] | None = None
    #: Media type of a text body, alone or beside JSON.
    text_type: str | None = None
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Route:
    """A method of a path, its handler, and everything that the OpenAPI document says about it."""

    method: str
    #: In Flask's syntax: ``/v1/predictions/<id>``.
    path: str
    #: Takes the `Service` and the path's parameters. Its name is Flask's endpoint and OpenAPI's operationId.
    handler: Callable[..., Response]
    summary: str = ""
    #: Status -> successful response.
    answers: Mapping[int, Answer] = field(default_factory=dict)
    errors: Sequence[type[core.WindrowError]] = ()
    #: Statuses of HTTP errors (`windrow.api.http.errors.HTTP_CODES`), beside ``errors``.
    http_errors: Sequence[int] = ()
    parameters: Sequence[Mapping[str, Any]] = ()
    #: Schema of the JSON request body.
    body: type[BaseModel] | None = None
    error_format: ErrorFormat = PROBLEM
    needs_key: bool = True
    is_documented: bool = True

    @property
    def name(self) -> str:
        """Flask's endpoint and OpenAPI's operationId."""
        return self.handler.__name__


def register(app: Flask, service: Service, routes: Iterable[Route]) -> None:
    """Add ``routes`` to ``app``."""
    for route in routes:
        app.add_url_rule(route.path, route.name, partial(route.handler, service), methods=[route.method])


def error_formats(routes: Iterable[Route]) -> Callable[[str], ErrorFormat]:
    """Return a function from a path to the format of its errors.

    It also knows paths that no route serves: with another method, or with parameters that do not match.
    """
    exact: dict[str, ErrorFormat] = {}
    prefixes: dict[str, ErrorFormat] = {}
    for route in routes:
        start, separator, _ = route.path.partition("<")
        (prefixes if separator else exact)[start] = route.error_format

    def find(path: str) -> ErrorFormat:
        if path in exact:
            return exact[path]
        return next((found for prefix, found in prefixes.items() if path.startswith(prefix)), PROBLEM)

    return find
