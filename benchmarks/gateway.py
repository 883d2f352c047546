"""``python -m benchmarks gateway``: `InferenceGateway` with batches, compared with one request per forward pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.stats import median, median_ratio
from windrow.gateway import InferenceConfig, InferenceGateway
from windrow.gateway.function_engine import BatchFunction
from windrow.lab.sample_texts import mixed_texts

WINDOW_MS = 50.0
#: Targets for the speedup of each batch size, if a forward pass costs the same whatever its size.
TARGETS = {8: 4.5, 16: 9.0}
SERIAL = "one by one"
CONFIGS = {SERIAL: InferenceConfig(enable_batching=False, max_queue_size=100_000)} | {
    f"batches of {size}": InferenceConfig(max_batch_size=size, max_batch_wait_ms=WINDOW_MS, max_queue_size=100_000)
    for size in TARGETS
}


@dataclass(frozen=True, slots=True)
class Workload:
    """The inputs, and the model that answers them."""

    name: str
    inputs: Sequence[Any]
    #: None for the default model.
    backend: BatchFunction | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    #: Whether the `TARGETS` apply.
    is_fixed: bool = False


def simulated_device(fixed_s: float, input_s: float = 0.0) -> BatchFunction:
    """Simulate a device that takes ``fixed_s`` per batch plus ``input_s`` per input, without using the CPU."""

    def run(inputs: list[Any]) -> list[Any]:
        time.sleep(fixed_s + input_s * len(inputs))
        return inputs

    return run


def workloads(requests: int, texts: int) -> list[Workload]:
    """Return the workloads: two simulated devices, and a model with mixed and short texts."""
    numbers = range(requests)
    return [
        Workload("20 ms a pass", numbers, simulated_device(0.020), is_fixed=True),
        Workload("10 ms a pass and 1 ms an input", numbers, simulated_device(0.010, 0.001)),
        Workload("MiniLM, texts of 3 to 400 words", mixed_texts(texts), parameters={"truncate": True}),
        Workload("MiniLM, texts of 8 words", [" ".join(text.split()[:8]) for text in mixed_texts(texts)],
                 parameters={"truncate": True}),
    ]  # fmt: skip


def run_gateway(requests: int, texts: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything; ``figures`` are rows of ``name, value, unit, target``."""
    measured = {}
    is_fixed = {}
    for workload in workloads(requests, texts):
        measured[workload.name] = asyncio.run(measure(workload, rounds))
        is_fixed[workload.name] = workload.is_fixed
        say(f"measured: {workload.name}")
    return {"per_s": measured, "figures": figures(measured, is_fixed)}


async def measure(workload: Workload, rounds: int) -> dict[str, list[float]]:
    """Measure requests per second of each configuration in each round; the configurations alternate."""
    per_s: dict[str, list[float]] = {name: [] for name in CONFIGS}
    async with AsyncExitStack() as stack:
        gateways = {
            name: await stack.enter_async_context(InferenceGateway(config, workload.backend))
            for name, config in CONFIGS.items()
        }
        for gateway in gateways.values():
            await infer_all(gateway, workload, workload.inputs[:16])
        for _ in range(rounds):
            for name, gateway in gateways.items():
                began_s = time.perf_counter()
                await infer_all(gateway, workload, workload.inputs)
                per_s[name].append(len(workload.inputs) / (time.perf_counter() - began_s))
    return per_s


async def infer_all(gateway: InferenceGateway, workload: Workload, inputs: Sequence[Any]) -> None:
    """Infer every input in its own concurrent task."""
    await asyncio.gather(*(gateway.infer(item, parameters=workload.parameters) for item in inputs))


def figures(measured: dict[str, dict[str, list[float]]], is_fixed: dict[str, bool]) -> list[dict[str, Any]]:
    """Return the rows of the report's table."""
    rows = []
    for workload, per_s in measured.items():
        for name, rates in per_s.items():
            rows.append({"name": f"{workload}: {name}", "value": median(rates), "unit": "requests/s", "target": None})
        for size, least in TARGETS.items():
            ratio = median_ratio(per_s[f"batches of {size}"], per_s[SERIAL])
            target = f">= {least:g}" if is_fixed[workload] else None
            rows.append({"name": f"{workload}: {size} / {SERIAL}", "value": ratio, "unit": "x", "target": target})
    return rows
