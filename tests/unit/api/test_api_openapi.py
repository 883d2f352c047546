"""The OpenAPI document is complete and consistent, and its pages are served."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from tests.support.api_client import DOCUMENT
from windrow.api import create_app
from windrow.api.app import ROUTES
from windrow.api.http.route import error_formats
from windrow.api.routes.docs import assets_folder
from windrow.api.routes.openapi import document
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS

NOT_DOCUMENTED = {"/openapi.json", "/docs", "/docs/start.js", "/docs/<path:path>"}


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(Settings.model_validate({"models": DEFAULT_MODELS, "redis_url": "redis://127.0.0.1:1/0"}))


def references_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "$ref":
                yield member
            else:
                yield from references_in(member)
    elif isinstance(value, list):
        for member in value:
            yield from references_in(member)


def test_the_document_is_served_as_openapi_3_1(app: Flask) -> None:
    response = app.test_client().get("/openapi.json")
    assert response.content_type == "application/json"
    assert response.json == document(ROUTES, needs_key=False)
    assert DOCUMENT["openapi"] == "3.1.0"


def test_the_document_describes_all_routes_and_no_others(app: Flask) -> None:
    served = {
        (rule.rule.replace("<id>", "{id}"), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule not in NOT_DOCUMENTED
        for method in (rule.methods or set()) - {"HEAD"}
    }
    documented = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert served == documented


def test_every_reference_resolves() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    references = set(references_in(DOCUMENT))
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(schemas)


def test_every_error_response_has_the_error_format_of_its_route() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    content_type = error_formats(ROUTES)(path).content_type
                    assert list(response["content"]) == [content_type], (path, status)


def test_the_pages_load_only_files_of_this_server(app: Flask) -> None:
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
def test_only_files_in_the_assets_folder_are_served(app: Flask, path: str) -> None:
    response = app.test_client().get(path)
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"


def test_the_assets_are_installed() -> None:
    folder = assets_folder()
    assert folder is not None
    assert (folder / "js" / "swagger-ui-bundle.js").is_file()
