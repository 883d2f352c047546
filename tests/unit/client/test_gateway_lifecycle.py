"""The options of a gateway, and its start and end."""

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.support.gateway import Device, play
from windrow import InferenceConfig, InferenceGateway
from windrow.errors import InvalidSetting, ModelUnusable, RequestRefused, UnknownModel


def test_a_call_before_initialize_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="initialize"):
        asyncio.run(InferenceGateway(backend=Device()).infer("early"))


def test_initializing_twice_starts_one_runner() -> None:
    async def run() -> None:
        gateway = InferenceGateway(InferenceConfig(), Device())
        await asyncio.gather(gateway.initialize(), gateway.initialize())
        await gateway.infer("a")
        await gateway.initialize()
        assert (await gateway.health())["batching"]["total_requests"] == 1
        await gateway.close()

    before = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == before


def test_a_closed_gateway_is_not_opened_again() -> None:
    async def run() -> None:
        gateway = InferenceGateway(backend=Device())
        async with gateway:
            await gateway.infer("a")
        await gateway.close()
        with pytest.raises(RuntimeError, match="closed; create another"):
            await gateway.initialize()
        with pytest.raises(RuntimeError, match="create another"):
            async with gateway:
                pass

    asyncio.run(run())


def test_a_gateway_closed_before_initialize_stays_closed() -> None:
    async def run() -> None:
        gateway = InferenceGateway(backend=Device())
        await gateway.close()
        with pytest.raises(RuntimeError, match="create another"):
            await gateway.initialize()
        with pytest.raises(RuntimeError, match="closed before it was initialized"):
            await gateway.infer("a")

    before = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == before


def test_close_waits_for_a_concurrent_initialize() -> None:
    async def run() -> None:
        gateway = InferenceGateway(backend=Device())
        await asyncio.gather(gateway.initialize(), gateway.close())
        assert (await gateway.health())["status"] == "closed"

    before = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == before


def test_parameters_for_a_function_are_refused() -> None:
    async def story(gateway: InferenceGateway) -> None:
        with pytest.raises(RequestRefused, match="parameters"):
            await gateway.infer("a", parameters={"truncate": True})

    play(story, Device())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_batch_size": 2.5}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_batch_tokens": -1}, "max_batch_tokens"),
        ({"max_queue_size": 0}, "max_queue_size"),
        ({"max_batch_wait_ms": -1}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": float("nan")}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": "soon"}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": True}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": None}, "max_batch_wait_ms"),
    ],
)
def test_a_malformed_field_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name}: takes"):
        InferenceConfig(**fields)


async def coroutine(inputs: list[Any]) -> list[Any]:
    return inputs


@pytest.mark.parametrize(("backend", "error"), [(7, TypeError), (coroutine, TypeError), ("no url", ValueError)])
def test_an_invalid_backend_is_refused_by_initialize(backend: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(InferenceGateway(backend=backend).initialize())


@pytest.mark.parametrize("given", [len, "http://127.0.0.1:8000", {"max_batch_size": 8}])
def test_an_invalid_config_is_refused_by_the_constructor(given: Any) -> None:
    with pytest.raises(TypeError, match=r"takes an InferenceConfig \(got (len|str|dict)\)"):
        InferenceGateway(given)


def test_an_unknown_model_is_refused_with_the_configured_ones() -> None:
    with pytest.raises(UnknownModel, match="minilm"):
        asyncio.run(InferenceGateway(model="maxilm").initialize())


def test_the_client_is_imported_without_the_gateway_and_the_gateway_without_torch() -> None:
    program = """
import sys, windrow
before = sorted({"torch", "redis", "worker", "scheduler", "windrow.gateway"} & set(sys.modules))
windrow.InferenceGateway
print(before, sorted({"torch", "transformers", "celery"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] []"


def test_a_model_whose_packages_are_not_installed_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "windrow.worker.engines.loading", None)
    with pytest.raises(ModelUnusable, match=r"minilm.*pip install 'windrow-inference\[worker\]'"):
        asyncio.run(InferenceGateway(InferenceConfig()).initialize())
