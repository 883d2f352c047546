"""The HTTP side of Windrow: ``create_app`` builds the WSGI application that gunicorn serves.

Imports nothing else: gunicorn's master reads ``windrow.api.gunicorn_conf`` before a worker patches the sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask
    from redis import Redis

    from windrow.scheduler.config.settings import Settings

__all__ = ["create_app"]

if __name__ == "api":  # a checkout on sys.path: the modules have one name each, `windrow.api.*`
    __path__ = []


def create_app(settings: Settings | None = None, redis: Redis | None = None) -> Flask:
    """Build the application; what is not given is read from ``windrow.toml`` and the environment.

    Raises `InvalidSetting`, also for a Redis that answers and would lose what it accepts. Needs none: Redis may come
    later, and go and come again.
    """
    from windrow.api.app import build_app

    return build_app(settings, redis)
