"""`ThroughServer`: the calls of a gateway on a Windrow server, which does the batching."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from windrow.client.async_client import AsyncClient
from windrow.client.prediction import Prediction
from windrow.errors import ClientError, PredictionFailed
from windrow.gateway.stats import GatewayStats

#: Number of batch ids that are kept so that each batch is counted once.
KEPT_BATCH_IDS = 4096


class ThroughServer:
    """Sends each input as a prediction of ``model``."""

    def __init__(self, client: AsyncClient, model: str) -> None:
        self._client = client
        self._model = model
        self._stats = GatewayStats()
        self._in_flight = 0
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._canceling: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def infer(self, input: Any, parameters: Mapping[str, Any]) -> Any:
        """Submit one input, wait for its result and return the output. Raises `ClientError`."""
        if self._is_closed:
            raise PredictionFailed("the gateway was closed before this request started", code="canceled")
        key = uuid4().hex
        self._in_flight += 1
        try:
            prediction = await self._client.predict(
                self._model, input, parameters=parameters or None, idempotency_key=key
            )
            while not prediction.is_ended:
                prediction = await self._client.wait(prediction.id)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._cancel(input, parameters, key))
            self._canceling.add(task)
            task.add_done_callback(self._canceling.discard)
            raise
        finally:
            self._in_flight -= 1
        self._count(prediction)
        return prediction.result()

    async def health(self) -> dict[str, Any]:
        """Return the health; ``batching`` covers the batches that contained requests of this gateway."""
        if self._is_closed:
            return self._describe("closed", {})
        try:
            models = await self._client.models()
        except ClientError as error:
            return self._describe("failed", {}) | {"error": str(error)}
        model = next((model for model in models if model["id"] == self._model), {})
        return self._describe("ok" if model.get("workers") else "failed", model)

    async def close(self) -> None:
        """Finish pending cancellations, then close the connections."""
        self._is_closed = True
        await asyncio.gather(*self._canceling)
        await self._client.aclose()

    def _describe(self, status: str, model: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "status": status,
            "mode": "server",
            "model": self._model,
            "device": model.get("device"),
            "strategy": model.get("strategy"),
            "batching": self._stats.describe(self._in_flight) | {"wait_ms": model.get("wait_ms")},
        }

    async def _cancel(self, input: Any, parameters: Mapping[str, Any], key: str) -> None:
        """Cancel a request whose id is not known yet: a submit with the same key returns the same prediction."""
        try:
            prediction = await self._client.submit(
                self._model, input, parameters=parameters or None, idempotency_key=key
            )
            await self._client.cancel(prediction.id)
        except ClientError:
            return  # The request was refused, or the server is unreachable: there is nothing to cancel.

    def _count(self, prediction: Prediction) -> None:
        metrics = prediction.metrics
        batch = metrics.get("batch_id")
        if batch is None or batch in self._counted:
            return
        self._counted[batch] = None
        if len(self._counted) > KEPT_BATCH_IDS:
            self._counted.popitem(last=False)
        self._stats.add(metrics["batch_size"], metrics["compute_ms"] / 1e3)
