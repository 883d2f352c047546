"""``/openapi.json`` and the pages at ``/docs``, with every asset served from here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import orjson
from flask import Flask, Response, send_from_directory

from windrow.api.routes.openapi import document

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
#: Nothing from elsewhere; Swagger UI writes inline styles and draws its icons from data URLs.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


def register(app: Flask, *, needs_key: bool) -> None:
    """Add the routes to ``app``, whose clients need a key or not."""

    def openapi() -> Response:
        return Response(orjson.dumps(document(needs_key=needs_key)), content_type="application/json")

    def docs() -> Response:
        return Response(PAGE, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})

    def start() -> Response:
        return Response(START, content_type="text/javascript; charset=utf-8")

    app.add_url_rule("/openapi.json", "openapi", openapi, methods=["GET"])
    app.add_url_rule("/docs", "docs", docs, methods=["GET"])
    app.add_url_rule("/docs/start.js", "docs_start", start, methods=["GET"])
    assets = assets_folder()
    if assets is not None:

        def asset(path: str) -> Response:
            return send_from_directory(assets, path, max_age=3600)

        app.add_url_rule("/docs/<path:path>", "docs_asset", asset, methods=["GET"])


def assets_folder() -> Path | None:
    """The Swagger UI files inside the wheel flask-openapi3-swagger; the wheel itself is not imported."""
    spec = find_spec("flask_openapi3_swagger")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(folders))) / "templates" / "swagger" if folders else None
