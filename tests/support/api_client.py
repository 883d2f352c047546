"""A test client of the Flask application that checks every response against /openapi.json."""

from __future__ import annotations

from typing import Any

import jsonschema
from flask import Flask
from werkzeug.test import TestResponse

from windrow.api.app import ROUTES
from windrow.api.routes.openapi import document
from windrow.api.service import Service

#: The OpenAPI document of a server with API keys.
DOCUMENT = document(ROUTES)
GOOD = {"model": "minilm", "input": "a text"}


def check_documented(method: str, rule: str, status: int, content_type: str, value: Any) -> None:
    """Fail unless the OpenAPI document describes this response of the route and ``value`` matches its schema."""
    responses = DOCUMENT["paths"][rule][method.lower()]["responses"]
    assert str(status) in responses, f"{method} {rule} answered {status}, which is not documented: {value}"
    content = responses[str(status)]["content"]
    kind = content_type.partition(";")[0]
    assert kind in content, f"{method} {rule} answered {status} as {kind}; documented: {list(content)}"
    if "json" in kind:
        schema = {**content[kind]["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(value, schema)


class ApiClient:
    """``get`` and ``post`` like those of Flask's test client, with every response checked."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.service: Service = app.extensions["windrow"]
        self._client = app.test_client()

    def get(self, path: str, **options: Any) -> TestResponse:
        """Send a GET and check the response."""
        return self._checked("GET", path, options)

    def post(self, path: str, **options: Any) -> TestResponse:
        """Send a POST and check the response."""
        return self._checked("POST", path, options)

    def predict(self, input: Any = "a text", *, headers: dict[str, str] | None = None, **more: Any) -> TestResponse:
        """Send POST /v1/predictions with ``more`` fields; the model is minilm by default."""
        return self.post("/v1/predictions", json=GOOD | {"input": input} | more, headers=headers)

    def _checked(self, method: str, path: str, options: dict[str, Any]) -> TestResponse:
        response = self._client.open(path, method=method, **options)
        adapter = self._app.url_map.bind("localhost")
        rule, _ = adapter.match(path.partition("?")[0], method, return_rule=True)
        pattern = rule.rule.replace("<id>", "{id}")
        is_json = "json" in response.content_type
        check_documented(
            method, pattern, response.status_code, response.content_type, response.json if is_json else None
        )
        return response


def assert_openai_error(response: TestResponse, status: int, code: str) -> str:
    """Fail unless ``response`` is that error in OpenAI's format; return its message."""
    assert response.status_code == status, response.data
    assert response.content_type == "application/json"
    assert response.json is not None
    assert set(response.json) == {"error"}
    error = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert "Traceback" not in error["message"]
    return str(error["message"])


def assert_problem(response: TestResponse, status: int, code: str) -> str:
    """Fail unless ``response`` is that problem; return its detail."""
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    problem = response.json
    assert problem is not None
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert "Traceback" not in problem["detail"]
    return str(problem["detail"])
