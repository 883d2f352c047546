"""Builds the Flask application from settings, a Redis connection and the routes."""

from __future__ import annotations

from contextlib import suppress

from flask import Flask
from redis import Redis
from redis.exceptions import RedisError

from windrow.api.auth import tenants
from windrow.api.http import errors, route
from windrow.api.openai import routes as openai
from windrow.api.routes import docs, events, operations, predictions
from windrow.api.service import Service
from windrow.scheduler.config.settings import Settings, load_settings
from windrow.scheduler.connection.connect import connect

#: Redis connections per process; a command holds one for a fraction of a millisecond, a waiting client holds none.
MAX_CONNECTIONS = 32
#: How long a request waits for a free connection, in seconds.
CONNECTION_WAIT_S = 5.0
#: Key of the `Service` in ``app.extensions``.
EXTENSION = "windrow"

_API = (*predictions.ROUTES, *events.ROUTES, *openai.ROUTES, *operations.ROUTES)
#: All routes.
ROUTES: tuple[route.Route, ...] = (*_API, *docs.docs_routes(_API))


def build_app(settings: Settings | None = None, redis: Redis | None = None) -> Flask:
    """Build the application; see `windrow.api.create_app`."""
    settings = settings or load_settings()
    service = Service(
        settings, redis or connect(settings.redis_url, max_connections=MAX_CONNECTIONS, wait_s=CONNECTION_WAIT_S)
    )
    with suppress(RedisError):  # Redis may start later; its settings are checked then
        service.intake.server.require()
    app = Flask("windrow.api", static_folder=None, template_folder=None)
    # Redirects and the automatic OPTIONS answer would be HTML.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = service
    errors.register(app, route.error_formats(ROUTES))
    tenants.register(app, settings, {entry.name for entry in ROUTES if not entry.needs_key})
    route.register(app, service, ROUTES)
    return app
