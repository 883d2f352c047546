"""Windrow: batch inference on Flask, Celery and Redis.

Names are imported on first use: ``from windrow import Client`` imports neither torch nor Celery, and a worker process
does not import the client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from windrow.version import __version__

if TYPE_CHECKING:
    from windrow import errors
    from windrow.client import AsyncClient, Client, Prediction, StreamEvent
    from windrow.gateway import InferenceConfig, InferenceGateway

__all__ = [
    "AsyncClient",
    "Client",
    "InferenceConfig",
    "InferenceGateway",
    "Prediction",
    "StreamEvent",
    "__version__",
    "errors",
]

#: The module of each public name.
_MODULES = {
    "AsyncClient": "windrow.client",
    "Client": "windrow.client",
    "Prediction": "windrow.client",
    "StreamEvent": "windrow.client",
    "InferenceConfig": "windrow.gateway",
    "InferenceGateway": "windrow.gateway",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("windrow.errors")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
