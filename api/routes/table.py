"""All routes of the API."""

from __future__ import annotations

from windrow.api.http.route import Route
from windrow.api.openai import routes as openai
from windrow.api.routes import docs, events, operations, predictions

_API: tuple[Route, ...] = (*predictions.ROUTES, *events.ROUTES, *openai.ROUTES, *operations.ROUTES)
ROUTES: tuple[Route, ...] = (*_API, *docs.docs_routes(_API))
