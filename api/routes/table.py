"""All routes of the API."""

from __future__ import annotations

from windrow.api.openai import routes as openai
from windrow.api.routes import docs, events, operations, predictions
from windrow.api.routes.route import Route

_API: tuple[Route, ...] = (*predictions.ROUTES, *events.ROUTES, *openai.ROUTES, *operations.ROUTES)
ROUTES: tuple[Route, ...] = (*_API, *docs.docs_routes(_API))
