"""Whose request this is: every route wants a key, but for those that are named here."""

from __future__ import annotations

from flask import Flask, g, request

from windrow.api.auth.keys import Keys
from windrow.api.http.errors import CLOSE
from windrow.errors import Unauthorized
from windrow.scheduler.config.settings import Settings

#: The one tenant there is where no keys are configured.
DEFAULT_TENANT = "default"
#: What anybody may ask: probes that carry no key, and the description of the interface.
OPEN_ENDPOINTS = frozenset({"healthz", "readyz", "openapi", "docs", "docs_start", "docs_asset"})


def register(app: Flask, settings: Settings) -> None:
    """Ask for a key before every route of ``app`` that is not open; raises `InvalidSetting` where nobody has one."""
    keys = Keys(settings.tenants)

    def sign_in() -> None:
        # A route that does not exist has no endpoint, and is denied too.
        if not keys or request.endpoint in OPEN_ENDPOINTS:
            g.tenant = DEFAULT_TENANT
            return
        try:
            g.tenant = keys.tenant_of(request.headers.get("Authorization"))
        except Unauthorized:
            # What a stranger sends is not read.
            if request.content_length or "Transfer-Encoding" in request.headers:
                request.environ[CLOSE] = True
            raise

    app.before_request(sign_in)


def current_tenant() -> str:
    """The tenant of the request that is being answered."""
    tenant: str = g.tenant
    return tenant
