"""The GPU side: ``celery -A windrow.worker worker`` runs one pool process per device, each with its batch loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

if __name__ == "worker":  # a checkout on sys.path: the modules have one name each, `windrow.worker.*`
    __path__ = []


def __getattr__(name: str) -> Celery:
    """Build the Celery app when it is first used, so that importing a module of this package reads no settings."""
    if name == "app":
        from windrow.worker.celery.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
