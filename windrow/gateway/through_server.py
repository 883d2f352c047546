"""The same calls against a Windrow server, which does the batching."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from windrow.client.async_client import AsyncClient
from windrow.client.prediction import Prediction
from windrow.errors import ClientError, PredictionFailed
from windrow.gateway.tally import GatewayStats

#: Batches that are remembered so that each is counted once.
REMEMBERED = 4096


class ThroughServer:
    """Sends each input as a prediction of ``model``."""

    def __init__(self, client: AsyncClient, model: str) -> None:
        self._client = client
        self._model = model
        self._tally = GatewayStats()
        self._waiting = 0
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._canceling: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def infer(self, input: Any, parameters: Mapping[str, Any]) -> Any:
        """Submit, follow to the end and return the output. Raises `ClientError`."""
        if self._is_closed:
            raise PredictionFailed("the gateway was closed before this began", code="canceled")
        key = uuid4().hex
        self._waiting += 1
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
            self._waiting -= 1
        self._count(prediction)
        return prediction.result()

    async def health(self) -> dict[str, Any]:
        """How it is; the figures are of the batches that this gateway's requests were in."""
        if self._is_closed:
            return self._describe("closed", {})
        try:
            models = await self._client.models()
        except ClientError as error:
            return self._describe("failed", {}) | {"error": str(error)}
        model = next((one for one in models if one["id"] == self._model), {})
        return self._describe("ok" if model.get("workers") else "failed", model)

    async def close(self) -> None:
        """Close the connections, after what was canceled was told to the server."""
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
            "batching": self._tally.describe(self._waiting) | {"wait_ms": model.get("wait_ms")},
        }

    async def _cancel(self, input: Any, parameters: Mapping[str, Any], key: str) -> None:
        """Cancel what may have been queued: the same key gives the same prediction, whose id was not heard yet."""
        try:
            prediction = await self._client.submit(
                self._model, input, parameters=parameters or None, idempotency_key=key
            )
            await self._client.cancel(prediction.id)
        except ClientError:
            return  # it was refused, or the server is away: nothing of it is left to cancel here

    def _count(self, prediction: Prediction) -> None:
        metrics = prediction.metrics
        batch = metrics.get("batch_id")
        if batch is None or batch in self._counted:
            return
        self._counted[batch] = None
        if len(self._counted) > REMEMBERED:
            self._counted.popitem(last=False)
        self._tally.add(metrics["batch_size"], metrics["compute_ms"] / 1e3)
