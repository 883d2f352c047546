"""The gateway against a server that answers without a network."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from windrow.client.async_client import AsyncClient
from windrow.errors import PredictionFailed, RequestRefused
from windrow.gateway.through_server import ThroughServer


def answer(request: httpx.Request, **more: Any) -> httpx.Response:
    """The prediction that was asked for, ended."""
    body = json.loads(request.content or b"{}")
    prediction = {"id": "p1", "model": "minilm", "status": "succeeded", "output": {"text": body.get("input")}}
    return httpx.Response(200, json=prediction | more)


def play(handler: Callable[[httpx.Request], Any], story: Callable[[ThroughServer], Any]) -> None:
    async def run() -> None:
        client = AsyncClient("http://testserver", transport=httpx.MockTransport(handler), timeout_s=5)
        runs = ThroughServer(client, "minilm")
        await story(runs)
        await runs.close()
        assert (await runs.health())["status"] == "closed"
        with pytest.raises(PredictionFailed, match="closed"):
            await runs.infer("late", {})

    asyncio.run(run())


def test_a_call_returns_the_output_of_its_prediction() -> None:
    sent: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return answer(request)

    async def story(runs: ThroughServer) -> None:
        assert await asyncio.gather(runs.infer("a", {}), runs.infer("b", {"truncate": True})) == [
            {"text": "a"},
            {"text": "b"},
        ]

    play(handler, story)
    assert sorted(sent, key=lambda one: str(one["input"])) == [
        {"model": "minilm", "input": "a", "priority": "normal"},
        {"model": "minilm", "input": "b", "priority": "normal", "parameters": {"truncate": True}},
    ]


def test_a_call_waits_until_its_prediction_has_finished() -> None:
    gets = iter(["queued", "processing", "succeeded"])

    def handler(request: httpx.Request) -> httpx.Response:
        return answer(request, status="queued" if request.method == "POST" else next(gets), output=1)

    async def story(runs: ThroughServer) -> None:
        assert await runs.infer("a", {}) == 1

    play(handler, story)


def test_refusals_and_failures_are_the_errors_of_the_client() -> None:
    problem = {"type": "x", "title": "x", "status": 422, "detail": "input: takes a string", "code": "invalid_input"}

    def handler(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content)["input"] == 7:
            return httpx.Response(422, json=problem)
        return answer(request, status="failed", output=None, error={"code": "model_failed", "detail": "it raised"})

    async def story(runs: ThroughServer) -> None:
        with pytest.raises(RequestRefused, match="takes a string"):
            await runs.infer(7, {})
        with pytest.raises(PredictionFailed, match="it raised"):
            await runs.infer("a", {})

    play(handler, story)


def test_a_canceled_task_cancels_its_prediction_by_the_idempotency_key() -> None:
    asked: list[tuple[str, str, str | None]] = []
    holds = asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, request.headers.get("Idempotency-Key")))
        if len(asked) == 1:
            holds.set()
            await asyncio.Event().wait()
        return answer(request, status="canceled" if request.url.path.endswith("cancel") else "queued")

    async def story(runs: ThroughServer) -> None:
        task = asyncio.create_task(runs.infer("a", {}))
        await holds.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(handler, story)
    (first, again, cancel) = asked
    assert first == again == ("POST", "/v1/predictions", first[2])
    assert first[2]
    assert cancel[:2] == ("POST", "/v1/predictions/p1/cancel")


def test_health_counts_each_batch_of_its_requests_once() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            model = {"id": "minilm", "workers": 1, "device": "cpu", "strategy": "packed", "wait_ms": 5.0}
            return httpx.Response(200, json={"object": "list", "data": [model]})
        batch = json.loads(request.content)["input"]
        return answer(request, metrics={"batch_id": batch, "batch_size": 4, "compute_ms": 10.0})

    async def story(runs: ThroughServer) -> None:
        await asyncio.gather(*(runs.infer(batch, {}) for batch in ("x", "x", "y")))
        assert await runs.health() == {
            "status": "ok", "mode": "server", "model": "minilm", "device": "cpu", "strategy": "packed",
            "batching": {
                "total_batches": 2, "total_requests": 8, "avg_batch_size": 4.0, "avg_batch_duration_ms": 10.0,
                "queue_depth": 0, "wait_ms": 5.0,
            },
        }  # fmt: skip

    play(handler, story)
