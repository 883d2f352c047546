"""The OpenAPI 3.1 document, made from the route declarations, the pydantic models and the error table.

flask-openapi3 is not used: it reads and validates the body itself, before the limits on size, time and nesting apply;
builds the JSON schema of headers and query parameters again for every request; and adds a 422 response of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from windrow import errors as core
from windrow.api.http.error_format import ErrorFormat
from windrow.api.http.errors import ERRORS, HTTP_CODES
from windrow.api.http.headers import TEXT_SCHEMA
from windrow.api.http.route import RETRY_AFTER, Answer, Headers, Route, response_header
from windrow.api.routes import schemas
from windrow.version import __version__

SECURITY_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key of one of the server's tenants."}
#: Headers of error responses, by status.
ERROR_HEADERS: Mapping[int, Headers] = {
    401: response_header("WWW-Authenticate", "Bearer, the accepted scheme."),
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}


@cache
def document(routes: tuple[Route, ...], *, needs_key: bool = True) -> dict[str, Any]:
    """Return the document of ``routes`` as JSON types; ``needs_key`` is whether the server has API keys."""
    described = [route for route in routes if route.is_documented]
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        path = route.path.replace("<", "{").replace(">", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, needs_key=needs_key and route.needs_key)
    security = {"securitySchemes": {"key": SECURITY_SCHEME}} if needs_key else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Windrow",
            "version": __version__,
            "description": "Batch inference on Flask, Celery and Redis. Errors are application/problem+json; "
            "OpenAI's routes use OpenAI's error format.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(described), **security},
    }


def _schemas(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the JSON schemas of all request and response bodies, by name."""
    requests = {route.body for route in routes if route.body}.union(schemas.OF_TASKS)
    responses = {answer.schema for route in routes for answer in route.answers.values() if answer.schema}
    responses |= {route.error_format.schema for route in routes}
    _, definitions = models_json_schema(
        [*((model, "validation") for model in requests), *((model, "serialization") for model in responses)],
        ref_template=schemas.REF,
    )
    found: dict[str, Any] = definitions["$defs"]
    return dict(sorted(found.items()))


def _operation(route: Route, *, needs_key: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {str(status): _success(answer) for status, answer in route.answers.items()}
        | _failures(route, needs_key=needs_key),
    }
    if route.parameters:
        operation["parameters"] = list(route.parameters)
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(route.body)}}}
    if needs_key:
        operation["security"] = [{"key": []}]
    return operation


def _success(answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if answer.schema is not None:
        content["application/json"] = {"schema": _ref(answer.schema)}
    if answer.text_type is not None:
        content[answer.text_type] = {"schema": TEXT_SCHEMA}
    parts = {"description": answer.description, "content": content, "headers": answer.headers}
    return {name: part for name, part in parts.items() if part}


def _failures(route: Route, *, needs_key: bool) -> dict[str, Any]:
    """Return the error responses of ``route`` by status, each with its codes; every route may fail with a 500."""
    codes: dict[int, list[str]] = {status: [HTTP_CODES[status]] for status in route.http_errors}
    kinds: list[type[core.WindrowError]] = [
        *route.errors,
        core.WindrowError,
        *([core.Unauthorized] if needs_key else []),
    ]
    for kind in kinds:
        status = ERRORS[kind].status
        code = route.error_format.codes.get(kind.code, kind.code)
        codes.setdefault(route.error_format.statuses.get(status, status), []).append(code)
    return {str(status): _failure(route.error_format, status, codes[status]) for status in sorted(codes)}


def _failure(error_format: ErrorFormat, status: int, codes: Sequence[str]) -> dict[str, Any]:
    response = {
        "description": f"Code {' or '.join(codes)}.",
        "content": {error_format.content_type: {"schema": _ref(error_format.schema)}},
    }
    headers = ERROR_HEADERS.get(status)
    return response | {"headers": headers} if headers else response


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": schemas.REF.format(model=model.__name__)}
