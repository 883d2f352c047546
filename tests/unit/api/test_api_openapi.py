"""The OpenAPI document is complete and consistent."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from windrow.api import create_app
from windrow.api.openai.errors import is_openai_path
from windrow.api.routes.docs import assets_folder
from windrow.api.routes.openapi import document
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS

NOT_IN_THE_DOCUMENT = {"/openapi.json", "/docs", "/docs/start.js", "/docs/<path:path>"}


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(Settings.model_validate({"models": DEFAULT_MODELS, "redis_url": "redis://127.0.0.1:1/0"}))


def every_reference(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "$ref":
                yield member
            else:
                yield from every_reference(member)
    elif isinstance(value, list):
        for member in value:
            yield from every_reference(member)


def test_it_is_served_and_says_3_1(app: Flask) -> None:
    response = app.test_client().get("/openapi.json")
    assert response.content_type == "application/json"
    assert response.json == document(needs_key=False)
    assert document()["openapi"] == "3.1.0"


def test_every_route_is_in_it_and_nothing_else(app: Flask) -> None:
    served = {
        (rule.rule.replace("<id>", "{id}"), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule not in NOT_IN_THE_DOCUMENT
        for method in (rule.methods or set()) - {"HEAD"}
    }
    documented = {(path, method) for path, methods in document()["paths"].items() for method in methods}
    assert served == documented


def test_every_reference_leads_somewhere() -> None:
    schemas = document()["components"]["schemas"]
    references = set(every_reference(document()))
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(schemas)


def test_every_error_answer_is_a_problem_or_has_openais_body() -> None:
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    kind = "application/json" if is_openai_path(path) else "application/problem+json"
                    assert list(response["content"]) == [kind], (path, status)


def test_the_pages_fetch_nothing_from_elsewhere(app: Flask) -> None:
    client = app.test_client()
    page = client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for asset in ("start.js", "css/swagger-ui.css", "js/swagger-ui-bundle.js", "images/swagger.svg"):
        assert f"/docs/{asset}" in page.text
        with client.get(f"/docs/{asset}") as response:
            assert response.status_code == 200, asset


@pytest.mark.parametrize(
    "path", ["/docs/../__init__.py", "/docs/%2e%2e/__init__.py", "/docs//etc/passwd", "/docs/none.js"]
)
def test_nothing_outside_the_assets_is_served(app: Flask, path: str) -> None:
    response = app.test_client().get(path)
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"


def test_the_assets_are_installed() -> None:
    folder = assets_folder()
    assert folder is not None
    assert (folder / "js" / "swagger-ui-bundle.js").is_file()
