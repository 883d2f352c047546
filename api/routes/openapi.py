"""The OpenAPI 3.1 document, made from the pydantic models and the error table.

Written here and not by flask-openapi3: that reads and checks the body itself, before the limits on size, time and
nesting can be applied; builds the JSON schema of headers and queries again for every request; and adds its own 422.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from windrow import errors as core
from windrow.api.auth.tenants import OPEN_ENDPOINTS
from windrow.api.http.errors import TABLE
from windrow.api.http.headers import CANCEL_ON_DISCONNECT, IDEMPOTENCY_KEY, MAX_WAIT_S
from windrow.api.openai import objects
from windrow.api.openai import schemas as openai
from windrow.api.openai.errors import CODES, is_openai_path, openai_status
from windrow.api.routes import schemas
from windrow.scheduler.queue.events import PLACE

RESPONSES = (
    schemas.Prediction, schemas.Predictions, schemas.Models, schemas.Health, schemas.Problem,
    objects.Embeddings, objects.Completion, objects.ChatCompletion, objects.OpenAIError,
)  # fmt: skip
REQUESTS: tuple[type[BaseModel], ...] = (
    schemas.PredictionRequest, schemas.BatchRequest, *schemas.OF_TASKS, openai.EmbeddingsRequest,
    openai.CompletionRequest, openai.ChatRequest,
)  # fmt: skip

READING = (core.UnknownPrediction, core.PredictionGone, core.RedisUnavailable)
SUBMITTING = (
    core.MalformedRequest, core.UnknownModel, core.PredictionGone, core.PayloadTooLarge, core.InvalidInput,
    core.InputTooLong, core.IdempotencyConflict, core.QueueFull, core.QuotaExceeded, core.ModelUnusable, core.NoWorker,
    core.RedisUnavailable,
)  # fmt: skip
#: A call whose answer is waited for ends as its requests do.
ANSWERING = (
    *(error for error in SUBMITTING if error not in (core.PredictionGone, core.IdempotencyConflict)), core.Canceled,
    core.ModelFailed, core.OutOfMemory, core.AttemptsExhausted, core.UpstreamFailed, core.Stopping,
    core.DeadlineExceeded,
)  # fmt: skip

TEXT = {"type": "string"}
KEY = {"type": "http", "scheme": "bearer", "description": "An API key of one of the server's tenants."}
WAIT = {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S}
RETRY_AFTER = {"Retry-After": {"description": "Seconds, from the measured queue.", "schema": {"type": "integer"}}}
CHALLENGE = {"WWW-Authenticate": {"description": "Bearer, the scheme that is taken.", "schema": TEXT}}
LOCATION = {"Location": {"description": "Where the prediction is read.", "schema": TEXT}}
APPLIED = {"Preference-Applied": {"description": "The wait that was honoured.", "schema": TEXT}}
#: ``1h30m``, ``5s``, or a number of seconds: more than nothing. What is beyond a week is refused too.
CANCEL_AFTER = "^(?=.*[1-9])([0-9]{1,9}|([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?)$"
REQUEST_ID = {"x-request-id": {"description": "The id of the call's first prediction.", "schema": TEXT}}
CANCEL_AFTER_HEADER = {
    "name": "Cancel-After", "in": "header", "schema": TEXT | {"pattern": CANCEL_AFTER}, "example": "1m",
    "description": "Not started by then: expired. To 7 days. The smaller of it and deadline_ms counts.",
}  # fmt: skip
SUBMIT_HEADERS = [
    {
        "name": "Idempotency-Key", "in": "header", "schema": TEXT | {"pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
        "description": "The same key and body again: the same prediction. Another body: 422.",
    },
    CANCEL_AFTER_HEADER,
]  # fmt: skip
PREFER = {
    "name": "Prefer", "in": "header", "schema": TEXT, "example": f"wait=10, {CANCEL_ON_DISCONNECT}",
    "description": f"wait=N: answer 200 when it ends within N seconds (to {MAX_WAIT_S}; bare wait is {MAX_WAIT_S}). "
                   f"{CANCEL_ON_DISCONNECT}: a client that hangs up while it waits wants the prediction no more.",
}  # fmt: skip
PREFER_READING = {
    "name": "Prefer", "in": "header", "schema": TEXT, "example": CANCEL_ON_DISCONNECT,
    "description": f"{CANCEL_ON_DISCONNECT}: hanging up while waiting (wait=N in the query) cancels the prediction.",
}  # fmt: skip
LAST_EVENT_ID = {
    "name": "Last-Event-ID", "in": "header", "schema": TEXT | {"pattern": f"^({PLACE.pattern})?$"},
    "example": "1769860800000-3", "description": "The id of an event: only what comes after it is sent.",
}  # fmt: skip
EVENTS = {
    "description": "Server-sent events: start, output, metric, and at last completed or error with the prediction.",
    "content": {"text/event-stream": {"schema": TEXT}},
}
ID = {"name": "id", "in": "path", "required": True, "schema": TEXT}
WAIT_QUERY = {"name": "wait", "in": "query", "schema": WAIT, "description": "Seconds to wait for its end."}


@cache
def document(*, needs_key: bool = True) -> dict[str, Any]:
    """The whole document, as JSON types, for servers whose clients need a key or for those that serve everybody."""
    _, definitions = models_json_schema(
        [*((model, "validation") for model in REQUESTS), *((model, "serialization") for model in RESPONSES)],
        ref_template=schemas.REF,
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Windrow",
            "version": _version(),
            "description": "Batch inference on Flask, Celery and Redis. Errors are application/problem+json, "
            "and on OpenAI's routes in OpenAI's shape.",
        },
        "paths": _paths(needs_key),
        "components": {"schemas": definitions["$defs"]} | ({"securitySchemes": {"key": KEY}} if needs_key else {}),
    }


def _paths(needs_key: bool) -> dict[str, Any]:
    prediction, many = schemas.Prediction, schemas.Predictions
    paths: dict[str, Any] = {
        "/v1/predictions": {
            "post": _operation(
                "create", "Ask for one prediction",
                {
                    "200": _or_events(_json(prediction, "It ended while the client waited.", LOCATION | APPLIED)),
                    "202": _json(prediction, "It is queued.", LOCATION | RETRY_AFTER | APPLIED),
                },
                SUBMITTING, parameters=[PREFER, *SUBMIT_HEADERS, LAST_EVENT_ID], body=schemas.PredictionRequest,
            ),
        },
        "/v1/predictions:batch": {
            "post": _operation(
                "create_batch", "Ask for many predictions at once",
                {"202": _json(many, "All are queued, in the order of the inputs.", RETRY_AFTER)},
                SUBMITTING, parameters=SUBMIT_HEADERS, body=schemas.BatchRequest, more=(406,),
            ),
        },
        "/v1/predictions/{id}": {
            "get": _operation(
                "get", "Read a prediction", {"200": _json(prediction, "What is known of it.", RETRY_AFTER)},
                (core.MalformedRequest, *READING), parameters=[ID, WAIT_QUERY, PREFER_READING], more=(406,),
            ),
        },
        "/v1/predictions/{id}/cancel": {
            "post": _operation(
                "cancel", "Cancel a prediction", {"200": _json(prediction, "It is canceled, or had ended before.")},
                READING, parameters=[ID],
            ),
        },
        "/v1/predictions/{id}/events": {
            "get": _operation(
                "events", "Follow a prediction",
                {"200": EVENTS, "204": {"description": "Its last event was the one that Last-Event-ID names."}},
                (core.MalformedRequest, *READING), parameters=[ID, LAST_EVENT_ID],
            ),
        },
        **_openai_paths(),
        "/v1/models": {"get": _operation("models", "List the models", {"200": _json(schemas.Models, "All of them.")})},
        "/v1/models/{id}": {
            "get": _openai_operation(
                "model", "Describe a model", {"200": _json(schemas.Model, "What is known of it.")},
                (core.UnknownModel,), parameters=[ID],
            ),
        },
        "/healthz": {"get": _operation("healthz", "Alive", {"200": _json(schemas.Health, "The process answers.")})},
        "/readyz": {
            "get": _operation(
                "readyz", "Ready", {"200": _json(schemas.Health, "A worker serves every model.")},
                (core.NoWorker, core.RedisUnavailable),
            ),
        },
        "/metrics": {
            "get": _operation(
                "metrics", "Prometheus metrics",
                {"200": {"description": "Prometheus text.", "content": {"text/plain": {"schema": TEXT}}}},
                (core.RedisUnavailable,),
            ),
        },
    }  # fmt: skip
    for path, operation in ((path, operation) for path, methods in paths.items() for operation in methods.values()):
        if needs_key and operation["operationId"] not in OPEN_ENDPOINTS:
            operation["security"] = [{"key": []}]
            refused = _openai_problem if is_openai_path(path) else _problem
            operation["responses"]["401"] = refused(401, [core.Unauthorized.code])
    return paths


def _openai_paths() -> dict[str, Any]:
    """OpenAI's routes; their errors have OpenAI's body."""
    stream = {"text/event-stream": {"schema": TEXT}}
    described: tuple[tuple[str, str, str, type[BaseModel], type[BaseModel], dict[str, Any]], ...] = (
        ("/v1/embeddings", "embeddings", "Embed texts", openai.EmbeddingsRequest, objects.Embeddings, {}),
        ("/v1/completions", "completions", "Go on from prompts", openai.CompletionRequest, objects.Completion, stream),
        (
            "/v1/chat/completions", "chat_completions", "Go on with a chat", openai.ChatRequest, objects.ChatCompletion,
            stream,
        ),
    )  # fmt: skip
    paths = {}
    for path, name, summary, body, answer, more in described:
        done = _json(answer, "The answer, in OpenAI's shape.", REQUEST_ID)
        done["content"] |= more
        paths[path] = {
            "post": _openai_operation(
                name, summary, {"200": done}, ANSWERING, parameters=[CANCEL_AFTER_HEADER], body=body
            )
        }
    return paths


def _openai_operation(
    name: str,
    summary: str,
    responses: dict[str, Any],
    errors: Sequence[type[core.WindrowError]],
    *,
    parameters: Sequence[dict[str, Any]],
    body: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """One operation whose ``errors`` have OpenAI's body and statuses."""
    operation = _operation(name, summary, responses, parameters=parameters, body=body)
    codes: dict[int, list[str]] = {}
    kinds: list[type[core.WindrowError]] = [*errors, core.WindrowError]
    for error in kinds:
        codes.setdefault(openai_status(TABLE[error].status), []).append(error.code)
    operation["responses"] |= {str(status): _openai_problem(status, names) for status, names in codes.items()}
    return operation


def _operation(
    name: str,
    summary: str,
    responses: dict[str, Any],
    errors: Sequence[type[core.WindrowError]] = (),
    *,
    parameters: Sequence[dict[str, Any]] = (),
    body: type[BaseModel] | None = None,
    more: Sequence[int] = (),
) -> dict[str, Any]:
    """One operation; ``errors`` become its problem responses, and ``more`` are statuses of HTTP's own."""
    by_status: dict[int, list[str]] = {status: ["not_acceptable"] for status in more}
    kinds: list[type[core.WindrowError]] = [*errors, core.WindrowError]
    for error in kinds:
        by_status.setdefault(TABLE[error].status, []).append(error.code)
    problems = {str(status): _problem(status, codes) for status, codes in sorted(by_status.items())}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses | problems}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return operation


def _json(model: type[BaseModel], description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    response = {"description": description, "content": {"application/json": {"schema": _ref(model)}}}
    return response | {"headers": headers} if headers else response


def _or_events(response: dict[str, Any]) -> dict[str, Any]:
    """``response``, or an event stream for a client that accepts only that."""
    return response | {
        "description": f"{response['description']} With Accept: text/event-stream, its events as they come.",
        "content": response["content"] | EVENTS["content"],
    }


def _problem(status: int, codes: Sequence[str]) -> dict[str, Any]:
    response = {
        "description": f"Code {' or '.join(codes)}.",
        "content": {"application/problem+json": {"schema": _ref(schemas.Problem)}},
    }
    headers = {401: CHALLENGE, 429: RETRY_AFTER, 503: RETRY_AFTER}.get(status)
    return response | {"headers": headers} if headers else response


def _openai_problem(status: int, codes: Sequence[str]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(objects.OpenAIError)}}
    return _problem(status, [CODES.get(code, code) for code in codes]) | {"content": content}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": schemas.REF.format(model=model.__name__)}


def _version() -> str:
    try:
        return version("windrow")
    except PackageNotFoundError:
        return "0"
