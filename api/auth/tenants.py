"""The tenant of each request, found by its API key before the route's handler runs."""

from __future__ import annotations

from collections.abc import Collection

from flask import Flask, g, request

from windrow.api.auth.keys import Keys
from windrow.api.http.errors import CLOSE
from windrow.errors import Unauthorized
from windrow.scheduler.config.settings import Settings

#: The only tenant if no keys are configured.
DEFAULT_TENANT = "default"


def register(app: Flask, settings: Settings, open_endpoints: Collection[str]) -> None:
    """Require a key for every request to ``app`` except those to ``open_endpoints``, if the settings have keys."""
    keys = Keys(settings.tenants)

    def authenticate() -> None:
        # A path without a route has no endpoint, so it requires a key too.
        if not keys or request.endpoint in open_endpoints:
            g.tenant = DEFAULT_TENANT
            return
        try:
            g.tenant = keys.tenant_of(request.headers.get("Authorization"))
        except Unauthorized:
            # The body of an unauthenticated request is not read, so its connection closes.
            if request.content_length or "Transfer-Encoding" in request.headers:
                request.environ[CLOSE] = True
            raise

    app.before_request(authenticate)


def current_tenant() -> str:
    """Return the tenant of the current request."""
    tenant: str = g.tenant
    return tenant
