"""Where the application is wired: settings and Redis in, a Flask application out."""

from __future__ import annotations

from contextlib import suppress

from flask import Flask
from redis import Redis
from redis.exceptions import RedisError

from windrow.api.auth import tenants
from windrow.api.http import errors
from windrow.api.openai import routes as openai
from windrow.api.routes import docs, events, operations, predictions
from windrow.api.service import Service
from windrow.scheduler.config.settings import Settings, load_settings
from windrow.scheduler.connection.connect import connect

#: Connections of one process; a command holds one for a fraction of a millisecond, a waiting client holds none.
MAX_CONNECTIONS = 32
#: How long a request waits for one of them, in seconds.
CONNECTION_WAIT_S = 5.0
#: Where the application keeps its `Service`.
EXTENSION = "windrow"


def build_app(settings: Settings | None = None, redis: Redis | None = None) -> Flask:
    """Build the application; see `api.create_app`."""
    settings = settings or load_settings()
    service = Service(
        settings, redis or connect(settings.redis_url, max_connections=MAX_CONNECTIONS, wait_s=CONNECTION_WAIT_S)
    )
    with suppress(RedisError):  # it may come later, and is checked then
        service.server.require()
    app = Flask("windrow.api", static_folder=None, template_folder=None)
    # No redirect and no OPTIONS page: both would be HTML.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = service
    errors.register(app)
    tenants.register(app, settings)
    predictions.register(app, service)
    events.register(app, service)
    openai.register(app, service)
    operations.register(app, service)
    docs.register(app, needs_key=bool(settings.tenants))
    return app
