"""Windrow: batch inference on Flask, Celery and Redis.

Names are imported when they are first used: ``from windrow import Client`` loads neither torch nor Celery, and a worker
process does not load the client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windrow import errors
    from windrow.client import AsyncClient, Client, Prediction, StreamEvent
    from windrow.gateway import InferenceConfig, InferenceGateway

__version__ = "0.1.0"

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

#: Public name -> the module that has it.
_HOMES = {
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
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
