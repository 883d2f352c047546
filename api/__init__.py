"""The HTTP API of Windrow: ``create_app`` builds the WSGI application that gunicorn serves.

This module imports nothing else, because gunicorn's master loads it before gevent has patched the sockets of a worker.
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
    """Build the application; without ``settings`` they are read from ``windrow.toml`` and the environment.

    Raises `InvalidSetting`, also for a reachable Redis whose configuration would lose accepted requests. Redis need not
    be reachable: it may start later, and restart.
    """
    from windrow.api.app import build_app

    return build_app(settings, redis)
