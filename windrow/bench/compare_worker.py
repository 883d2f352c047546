"""The worker of `windrow.bench.compare`: a lane a contender, all in one resident loop. It runs until it is ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from scheduler.core.outcomes import Failed, Outcome
from scheduler.core.planning import Batch, BatchLimits
from scheduler.lab.cost import PassCost
from scheduler.lab.device import Policy
from scheduler.queue import RedisQueue
from scheduler.queue.connection import connect
from scheduler.settings import ModelSettings
from windrow.bench.paced import PacedEngine
from worker.engines.base import Engine, Prepared
from worker.engines.loading import batch_limits, load_engine
from worker.lane import Lane
from worker.process import take_share
from worker.resident import Resident

LEASE_S = 60.0
#: Strategy and batch size -> an engine that plans so, and the limits of its passes.
Opens = Callable[[str, int], tuple[Engine, BatchLimits]]


class Planned:
    """A loaded `Engine` whose passes are planned by another strategy that pads."""

    def __init__(self, engine: Engine, strategy: str) -> None:
        self.engine, self.info = engine, replace(engine.info, strategy=strategy)
        self.busy_s = 0.0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """As the engine does it."""
        return self.engine.prepare(inputs, parameters)

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """As the engine does it."""
        return self.engine.forward(prepared, batch)

    def collect(self, handle: Any) -> list[Outcome]:
        """As the engine does it."""
        outcomes = self.engine.collect(handle)
        self.busy_s = self.engine.busy_s
        return outcomes


def serve(spec: Mapping[str, Any]) -> None:
    """Serve all contenders of ``spec``, which is a `windrow.bench.compare.Plan` with the URL of Redis."""
    take_share(0, 1)
    redis = connect(spec["url"])
    open_engine = fixed_engines(spec["engine"]) if spec["engine"]["kind"] == "fixed" else model_engines(spec)
    lanes = {}
    for one in spec["contenders"]:
        engine, limits = open_engine(one["strategy"], one["max_batch_size"])
        queue = RedisQueue(redis, one["name"])
        lanes[one["name"]] = Lane(queue, engine, limits, spec["max_wait_ms"] / 1e3, LEASE_S, "bench")
    Resident(lanes, stopping=lambda: 0).run()


def fixed_engines(given: Mapping[str, Any]) -> Opens:
    """Devices that sleep for ``pass_ms`` a pass and ``token_us`` a token, padding included."""
    cost = PassCost(given["pass_ms"] / 1e3, given["token_us"] / 1e6)

    def open_engine(strategy: str, max_batch_size: int) -> tuple[Engine, BatchLimits]:
        limits = BatchLimits(max_batch_size, given["max_batch_tokens"], static_length=given["longest_tokens"])
        return PacedEngine(Policy(strategy, limits, 0.0), cost), limits

    return open_engine


def model_engines(spec: Mapping[str, Any]) -> Opens:
    """A model loaded once for all strategies that pad, and once for ``packed``."""
    settings = ModelSettings.model_validate(spec["engine"]["settings"])
    largest = max(one["max_batch_size"] for one in spec["contenders"])
    loaded: dict[bool, Engine] = {}

    def open_engine(strategy: str, max_batch_size: int) -> tuple[Engine, BatchLimits]:
        packs = strategy == "packed"
        if packs not in loaded:
            chosen = {"strategy": "packed" if packs else "dynamic", "max_batch_size": largest}
            loaded[packs] = load_engine(spec["engine"]["name"], settings.model_copy(update=chosen))
        engine: Engine = loaded[packs] if packs else Planned(loaded[packs], strategy)
        asked = settings.model_copy(update={"strategy": strategy, "max_batch_size": max_batch_size})
        return engine, batch_limits(asked, engine.info)

    return open_engine


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    serve(orjson.loads(Path(sys.argv[1]).read_bytes()))
