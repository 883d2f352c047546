"""``/openapi.json`` and the Swagger UI at ``/docs``, with all assets served from here."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from flask import Response, send_from_directory
from werkzeug.exceptions import NotFound

from windrow.api.http.responses import json_response
from windrow.api.http.route import Route
from windrow.api.routes.openapi import document
from windrow.api.service import Service

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Windrow API</title>
<link rel="icon" href="/docs/images/swagger.svg">
<link rel="stylesheet" href="/docs/css/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/js/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
#: Only this server's files load; Swagger UI writes inline styles and draws its icons from data URLs.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


def docs_routes(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """Return the routes that serve the OpenAPI document of ``routes`` and its pages."""

    def openapi(service: Service) -> Response:
        return json_response(document(routes, needs_key=bool(service.settings.tenants)))

    return tuple(
        Route("GET", path, handler, needs_key=False, is_documented=False)
        for path, handler in (
            ("/openapi.json", openapi),
            ("/docs", docs),
            ("/docs/start.js", docs_start),
            ("/docs/<path:path>", docs_asset),
        )
    )


def docs(_service: Service) -> Response:
    """The page."""
    return Response(PAGE, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


def docs_start(_service: Service) -> Response:
    """The script that starts Swagger UI."""
    return Response(START, content_type="text/javascript; charset=utf-8")


def docs_asset(_service: Service, path: str) -> Response:
    """A file of Swagger UI."""
    folder = assets_folder()
    if folder is None:
        raise NotFound
    return send_from_directory(folder, path, max_age=3600)


@cache
def assets_folder() -> Path | None:
    """Return the folder of Swagger UI in the package flask-openapi3-swagger, which is not imported."""
    spec = find_spec("flask_openapi3_swagger")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(folders))) / "templates" / "swagger" if folders else None
