"""Windrow: batch inference on Flask, Celery and Redis. This package is what users import and type.

``from windrow import Client`` loads neither torch nor Celery; `InferenceGateway` is loaded when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from windrow import errors
from windrow.client import Client
from windrow.client_async import AsyncClient
from windrow.prediction import Prediction
from windrow.streaming import StreamEvent

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name in ("InferenceConfig", "InferenceGateway"):
        from windrow import gateway

        return getattr(gateway, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
