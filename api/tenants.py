"""Whose request this is."""

from __future__ import annotations

#: The one tenant there is as long as nobody signs in.
DEFAULT_TENANT = "default"


def current_tenant() -> str:
    """The tenant of the request that is being answered."""
    return DEFAULT_TENANT
