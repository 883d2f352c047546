"""``python -m benchmarks generate``: each strategy, and the continuous batching of transformers, on the same load."""

from __future__ import annotations

import gc
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.generate.llama import SHAPES, make_llama
from benchmarks.stats import percentile
from windrow.bench.generation_load import Ask, make_load
from windrow.bench.programs import BenchFailed

Say = Callable[[str], None]
CONTENDERS = ("continuous", "static", "none", "transformers")
#: Requests that the strategy ``none`` runs; a few suffice, since it runs one at a time.
NONE_REQUESTS = 8
#: Memory bandwidth in bytes per second, by the beginning of the device's name.
BANDWIDTHS = {"NVIDIA H200": 4.8e12, "NVIDIA H100": 3.35e12}


@dataclass(slots=True)
class Timed:
    """The number of tokens of a request, and when its first and last arrived, in seconds from the start."""

    tokens: int
    first_s: float = 0.0
    ended_s: float = 0.0


def run_generate(
    requests: int, shape: str | None, batch_size: int, static_size: int, scale: float, only: Sequence[str], say: Say
) -> dict[str, Any]:
    """Measure the contenders in ``only``, or all if it is empty; ``contenders`` maps each to its figures.

    Raises `BenchFailed` for an unknown shape or contender.
    """
    shape = choose_shape(shape)
    if unknown := [name for name in only if name not in CONTENDERS]:
        raise BenchFailed(f"unknown contender {unknown[0]!r}; choose from {', '.join(CONTENDERS)}")
    contenders = only or CONTENDERS
    report: dict[str, Any] = {"requests": requests, "shape": shape, "contenders": {}}
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as name:
        folder = make_llama(Path(name), shape)
        load = make_load(requests, SHAPES[shape]["vocab_size"], scale)
        say(f"{requests} requests, {sum(len(ask.ids) for ask in load)} prompt and "
            f"{sum(ask.tokens for ask in load)} answer tokens")  # fmt: skip
        report |= _run_windrow(folder, load, batch_size, static_size, contenders, report["contenders"], say)
        if "transformers" in contenders:
            report["contenders"]["transformers"] = _run_transformers(folder, load, say)
    return report | _comparison(report)


def choose_shape(shape: str | None) -> str:
    """Return ``shape``, or the default for this machine. Raises `BenchFailed` for an unknown one."""
    import torch

    shape = shape or ("1b" if torch.cuda.is_available() else "small")
    if shape not in SHAPES:
        raise BenchFailed(f"unknown shape {shape!r}; choose from {', '.join(SHAPES)}")
    return shape


def _comparison(report: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios, the mean continuous step, and its lower bound: the time to read weights and cache once."""
    figures = report["contenders"]
    ratios = {}
    if "continuous" in figures:
        best = figures["continuous"]
        for name in ("static", "none", "transformers"):
            if name in figures:
                ratios[f"continuous over {name}, tokens/s"] = best["tokens_per_s"] / figures[name]["tokens_per_s"]
        if "static" in figures:
            ratios["static over continuous, mean latency"] = (
                figures["static"]["mean_latency_s"] / best["mean_latency_s"]
            )
    bandwidth = next((rate for name, rate in BANDWIDTHS.items() if report["device"].startswith(name)), None)
    step_s = floor_s = None
    if bandwidth is not None and "continuous" in figures:
        step_s = figures["continuous"]["busy_s"] / figures["continuous"]["steps"]
        read = report["weight_bytes"] + figures["continuous"]["mean_cached_tokens"] * report["token_bytes"]
        floor_s = read / bandwidth
    return {"ratios": ratios, "step_s": step_s, "floor_step_s": floor_s}


def _run_windrow(
    folder: Path, load: list[Ask], batch_size: int, static_size: int, contenders: Sequence[str],
    figures: dict[str, Any], say: Say,
) -> dict[str, Any]:  # fmt: skip
    import torch

    from windrow.scheduler.config.model_settings import ModelSettings
    from windrow.worker.engines.generation.engine import GenerateEngine
    from windrow.worker.engines.generation.loading import load_model

    base: dict[str, Any] = {"task": "generate", "source": str(folder), "max_batch_size": batch_size}
    began_s = time.perf_counter()
    model = load_model("bench", ModelSettings(**base))
    load_s = time.perf_counter() - began_s
    say(f"model loaded, checked and captured in {load_s:.1f} s")
    engine: GenerateEngine | None = None
    for strategy in ("continuous", "static", "none"):
        if strategy not in contenders:
            continue
        size = static_size if strategy == "static" else batch_size
        engine = GenerateEngine("bench", ModelSettings(**base | {"strategy": strategy, "max_batch_size": size}), model)
        drive(engine, load[:2])  # first-call work
        engine.busy_s = 0.0
        chosen = load[:NONE_REQUESTS] if strategy == "none" else load
        figures[strategy] = drive(engine, chosen)
        say(f"{strategy}: {figures[strategy]}")
    weights = sum(weight.numel() * weight.element_size() for weight in model.slots.module.parameters())
    cache = model.slots.cache
    token_bytes = cache.keys[:, :, 0, 0].numel() * cache.keys.element_size() * 2
    # Free the device for transformers; the cache takes most of its memory.
    engine = None
    del cache, model
    gc.collect()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"load_s": load_s, "device": name, "weight_bytes": weights, "token_bytes": token_bytes}


def drive(engine: Any, load: Sequence[Ask]) -> dict[str, float]:
    """Run all requests at once like the step loop: one thread steps, another collects."""
    timed = {str(number): Timed(ask.tokens) for number, ask in enumerate(load)}
    prepared = [
        engine.prepare([{"prompt_ids": ask.ids}], [{"max_tokens": ask.tokens, "ignore_eos": True}])[0] for ask in load
    ]
    handles: queue.SimpleQueue[Any] = queue.SimpleQueue()
    steps = rows = cached_tokens = 0
    began_s = time.perf_counter()

    def collect() -> None:
        while (handle := handles.get()) is not None:
            deltas = engine.collect(handle)
            now_s = time.perf_counter() - began_s
            for delta in deltas:
                if delta.first:
                    timed[delta.id].first_s = now_s
                if delta.outcome is not None:
                    timed[delta.id].ended_s = now_s

    collector = threading.Thread(target=collect)
    collector.start()
    for id, request in zip(timed, prepared, strict=True):
        engine.add(id, request)
    while not all(request.ended_s for request in timed.values()):
        handle = engine.step()
        if handle is None:
            engine.wait(0.01)
            continue
        steps += 1
        rows += handle.plan.rows
        page_tokens = engine.info.page_tokens
        cached_tokens += sum(len(choice.sequence.pages) for choice in handle.decoded) * page_tokens
        handles.put(handle)
    handles.put(None)
    collector.join()
    while (handle := engine.step()) is not None:
        engine.collect(handle)
    took_s = max(request.ended_s for request in timed.values())
    return _figures(list(timed.values()), took_s) | {
        "steps": steps, "mean_rows": rows / max(1, steps), "busy_s": engine.busy_s,
        "mean_cached_tokens": cached_tokens / max(1, steps),
    }  # fmt: skip


def _figures(timed: Sequence[Timed], took_s: float) -> dict[str, float]:
    gaps_s = [(request.ended_s - request.first_s) / (request.tokens - 1) for request in timed if request.tokens > 1]
    firsts_s = [request.first_s for request in timed]
    return {
        "tokens_per_s": sum(request.tokens for request in timed) / took_s,
        "took_s": took_s,
        "mean_latency_s": sum(request.ended_s for request in timed) / len(timed),
        "ttft_p50_s": percentile(firsts_s, 0.5),
        "ttft_p99_s": percentile(firsts_s, 0.99),
        "itl_p50_s": percentile(gaps_s, 0.5),
        "itl_p99_s": percentile(gaps_s, 0.99),
    }


def _run_transformers(folder: Path, load: Sequence[Ask], say: Say) -> dict[str, float]:
    """Run the load with transformers' ContinuousBatchingManager and its default settings."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    cuda = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if cuda else torch.float32)
    model = model.to("cuda" if cuda else "cpu").eval()
    generation_config = GenerationConfig(max_new_tokens=1024, do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(generation_config=generation_config)
    manager.start()
    timed: dict[str, Timed] = {}
    began_s = time.perf_counter()
    for ask in load:
        id = manager.add_request(ask.ids, max_new_tokens=ask.tokens)
        timed[id] = Timed(ask.tokens)
    left = len(load)
    while left:
        result = manager.get_result(timeout=60)
        now_s = time.perf_counter() - began_s
        if result is None:
            raise TimeoutError("transformers' continuous batching returned no result for 60 s")
        if result.is_finished():
            # Without streaming, the manager reports finished requests only.
            timed[result.request_id].ended_s = timed[result.request_id].first_s = now_s
            timed[result.request_id].tokens = len(result.generated_tokens)
            left -= 1
    took_s = time.perf_counter() - began_s
    manager.stop(block=True)
    figures = _figures(list(timed.values()), took_s)
    unknown = ("ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")
    known_figures = {name: value for name, value in figures.items() if name not in unknown}
    say(f"transformers: {known_figures}")
    return known_figures
