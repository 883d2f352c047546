"""The HTTP clients, `Client` and `AsyncClient`; the base install has everything they import."""

from windrow.client.async_client import AsyncClient
from windrow.client.event_stream import StreamEvent
from windrow.client.prediction import Prediction
from windrow.client.sync_client import Client

__all__ = ["AsyncClient", "Client", "Prediction", "StreamEvent"]
