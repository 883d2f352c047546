"""One declaration makes Flask's rule, the need of a key, the error format and the OpenAPI operation of a route."""

from collections import Counter

import pytest
from flask import Flask, Response

from windrow.api.app import ROUTES
from windrow.api.auth import tenants
from windrow.api.auth.keys import hash_key, make_key
from windrow.api.http import errors, route
from windrow.api.http.error_format import PROBLEM
from windrow.api.http.responses import json_response
from windrow.api.http.route import Answer, Route
from windrow.api.openai.errors import OPENAI
from windrow.api.routes import schemas
from windrow.api.routes.openapi import document
from windrow.errors import UnknownModel
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS


def hay(service: object, id: str) -> Response:
    if id == "none":
        raise UnknownModel("there is no hay")
    return json_response({"id": id, "service": service})


def barn(service: object) -> Response:
    return json_response({"status": "ok"})


DECLARED = (
    Route("GET", "/hay/<id>", hay, "Read hay", {200: Answer("Hay.")}, [UnknownModel], error_format=OPENAI),
    Route("POST", "/barn", barn, "Fill the barn", {200: Answer("Full.", schemas.Health)}, needs_key=False),
)


@pytest.fixture
def app() -> Flask:
    keys = {"tenants": {"acme": {"keys": [hash_key(KEY)]}}}
    app = Flask("test")
    errors.register(app, route.error_formats(DECLARED))
    tenants.register(
        app,
        Settings.model_validate({"models": DEFAULT_MODELS} | keys),
        {each.name for each in DECLARED if not each.needs_key},
    )
    route.register(app, "the service", DECLARED)  # type: ignore[arg-type]
    return app


KEY = make_key()
HEADERS = {"Authorization": f"Bearer {KEY}"}


def test_a_handler_gets_the_service_and_the_parameters_of_the_path(app: Flask) -> None:
    assert app.test_client().get("/hay/dry", headers=HEADERS).json == {"id": "dry", "service": "the service"}


def test_a_route_needs_a_key_unless_its_declaration_exempts_it(app: Flask) -> None:
    assert app.test_client().get("/hay/dry").status_code == 401
    assert app.test_client().post("/barn").status_code == 200


def test_errors_have_the_format_of_the_declaration_even_without_a_matching_route(app: Flask) -> None:
    client = app.test_client()
    for response in (client.get("/hay/none", headers=HEADERS), client.post("/hay/dry", headers=HEADERS)):
        assert response.content_type == OPENAI.content_type
        assert set(response.json) == {"error"}
    assert client.get("/barn", headers=HEADERS).content_type == PROBLEM.content_type
    assert client.get("/elsewhere", headers=HEADERS).content_type == PROBLEM.content_type


def test_a_route_is_described_as_declared() -> None:
    described = document(DECLARED)
    read, fill = described["paths"]["/hay/{id}"]["get"], described["paths"]["/barn"]["post"]
    assert (read["operationId"], read["summary"], read["security"]) == ("hay", "Read hay", [{"key": []}])
    assert {status: list(answer.get("content", {})) for status, answer in read["responses"].items()} == {
        "200": [], "401": ["application/json"], "404": ["application/json"], "500": ["application/json"],
    }  # fmt: skip
    assert "model_not_found" in read["responses"]["404"]["description"]
    assert "security" not in fill
    assert "401" not in fill["responses"]
    assert {"Health", "Problem", "OpenAIError"} <= set(described["components"]["schemas"])


def test_names_and_methods_of_paths_are_unique() -> None:
    assert max(Counter(each.name for each in ROUTES).values()) == 1
    assert max(Counter((each.method, each.path) for each in ROUTES).values()) == 1
