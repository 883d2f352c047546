"""The HTTP side of Windrow: ``create_app`` builds the WSGI application that gunicorn serves.

Nothing else is imported here: gunicorn's master reads ``api.gunicorn_conf`` before a worker has patched the sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask
    from redis import Redis

    from scheduler.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings | None = None, redis: Redis | None = None) -> Flask:
    """Build the application; what is not given is read from ``windrow.toml`` and the environment.

    Raises `InvalidSetting`, also for a Redis that answers and would lose what it accepts. Needs none: Redis may come
    later, and go and come again.
    """
    from api.app import build_app

    return build_app(settings, redis)
