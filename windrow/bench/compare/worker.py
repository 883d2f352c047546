"""Worker of `windrow bench compare`: serves every contender from one batch loop until it is stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from windrow.bench.paced_engine import PacedEngine
from windrow.lab.costs.cost import PassCost
from windrow.lab.simulate.device import Policy
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.engines.base import Engine, StepEngine
from windrow.worker.engines.loading import batch_limits, load_batch_engine, load_engine
from windrow.worker.pool.pool_process import take_share
from windrow.worker.steps.step_model import StepModel

LEASE_S = 60.0
#: KV-cache tokens per concurrent sequence if the settings name no size, because the contenders share the device.
SEQUENCE_TOKENS = 1024
#: Strategies that need an engine of their own: packed batches use other kernels, and both capture CUDA graphs.
OWN_ENGINE = frozenset({"packed", "bucket"})
#: The served model of each contender, by its name.
Models = dict[str, BatchModel | StepModel]


class ReplannedEngine:
    """A loaded `Engine` under another padding strategy; everything else is that of the engine."""

    def __init__(self, engine: Engine, strategy: str) -> None:
        self.engine, self.info = engine, replace(engine.info, strategy=strategy)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def serve(spec: Mapping[str, Any]) -> None:
    """Serve all contenders of ``spec``: a `windrow.bench.compare.run.Plan` plus the URL of Redis."""
    take_share(0, 1)
    models = OPENERS[spec["engine"]["kind"]](connect(spec["url"]), spec)
    BatchLoop(models, stopping=lambda: 0).run()


def fixed_cost_models(redis: Redis, spec: Mapping[str, Any]) -> Models:
    """Serve an engine that sleeps ``pass_ms`` per batch and ``token_us`` per token, padding included."""
    given, max_wait_s = spec["engine"], _max_wait_s(spec)
    cost = PassCost(given["pass_ms"] / 1e3, given["token_us"] / 1e6)
    models: Models = {}
    for one in spec["contenders"]:
        limits = BatchLimits(one["max_batch_size"], given["max_batch_tokens"], static_length=given["longest_tokens"])
        engine = PacedEngine(Policy(one["strategy"], limits, max_wait_s), cost)
        queue = RedisQueue(redis, one["name"])
        models[one["name"]] = BatchModel(queue, engine, limits, max_wait_s, LEASE_S, "bench")
    return models


def batch_models(redis: Redis, spec: Mapping[str, Any]) -> Models:
    """Serve a model that answers in one batch: one engine per strategy in `OWN_ENGINE`, one for all others."""
    settings = ModelSettings.model_validate(spec["engine"]["settings"])
    largest = max(one["max_batch_size"] for one in spec["contenders"])
    loaded: dict[str, tuple[Engine, BatchLimits]] = {}
    models: Models = {}
    for one in spec["contenders"]:
        strategy = one["strategy"]
        key = strategy if strategy in OWN_ENGINE else "dynamic"
        if key not in loaded:
            asked = settings.model_copy(update={"strategy": key, "max_batch_size": largest})
            engine = load_batch_engine(spec["engine"]["name"], asked)
            loaded[key] = engine, batch_limits(asked, engine.info)
        engine, limits = loaded[key]
        models[one["name"]] = BatchModel(
            RedisQueue(redis, one["name"]),
            engine if strategy == key else ReplannedEngine(engine, strategy),
            # The CUDA graphs captured for the largest batch size include those of smaller ones.
            replace(limits, max_batch_size=one["max_batch_size"]),
            _max_wait_s(spec),
            LEASE_S,
            "bench",
        )
    return models


def _max_wait_s(spec: Mapping[str, Any]) -> float | None:
    return None if spec["max_wait_ms"] is None else spec["max_wait_ms"] / 1e3


def step_models(redis: Redis, spec: Mapping[str, Any]) -> Models:
    """Serve a model that generates: loaded once per contender, with a KV cache of its own.

    If the spec names a file as ``steps``, the time of each decode step is appended to it.
    """
    settings, steps = ModelSettings.model_validate(spec["engine"]["settings"]), spec["engine"].get("steps")
    models: Models = {}
    for one in spec["contenders"]:
        asked = {name: one[name] for name in ("strategy", "max_batch_size")}
        asked["cache_tokens"] = settings.cache_tokens or SEQUENCE_TOKENS * one["max_batch_size"]
        engine = load_engine(spec["engine"]["name"], settings.model_copy(update=asked))
        assert isinstance(engine, StepEngine)
        if steps is not None:
            engine = _timed(engine, Path(steps))
        models[one["name"]] = StepModel(redis, RedisQueue(redis, one["name"]), engine, LEASE_S, "bench")
    return models


def _timed(engine: StepEngine, steps: Path) -> StepEngine:
    from windrow.lab.tune.step_timing import TimedSteps
    from windrow.worker.engines.generation.engine import GenerateEngine

    assert isinstance(engine, GenerateEngine)
    # Unbuffered, because the process is stopped without notice.
    file = steps.open("wb", buffering=0)
    return TimedSteps(engine, lambda step: file.write(orjson.dumps(astuple(step)) + b"\n"))


#: ``kind`` of the engine -> function that opens the models of all contenders.
OPENERS: Mapping[str, Callable[[Redis, Mapping[str, Any]], Models]] = {
    "fixed": fixed_cost_models,
    "rows": batch_models,
    "steps": step_models,
}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    serve(orjson.loads(Path(sys.argv[1]).read_bytes()))
