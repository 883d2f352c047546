"""Windrow: batch inference on Flask, Celery and Redis. This package is what users import and type.

``from windrow import Client`` loads neither torch nor Celery.
"""

from windrow import errors
from windrow.client import Client
from windrow.client_async import AsyncClient
from windrow.prediction import Prediction

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "Prediction", "__version__", "errors"]
