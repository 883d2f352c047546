"""The engine alone, the upper bound of ``python -m benchmarks http``: batches in arrival order. Run by `run_part`."""

from __future__ import annotations

import os
import time
from itertools import cycle, islice
from typing import Any

from windrow.bench.programs import part
from windrow.bench.workload import BATCH_SIZE, MODEL, model_settings
from windrow.scheduler.core.planning import BatchLimits, plan_batches
from windrow.worker.engines.base import Engine

PARAMETERS = {"truncate": True}


def load_engine() -> tuple[Engine, BatchLimits]:
    """Load the benchmark's model with one thread per core."""
    import torch

    from windrow.worker.engines.loading import batch_limits, load_batch_engine

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = model_settings()
    engine = load_batch_engine(MODEL, settings)
    return engine, batch_limits(settings, engine.info)


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Tokenize, plan and compute batches for ``warm_s + seconds``; ``ended`` has the time and tokens of each text."""
    engine, limits = load_engine()
    texts = cycle(spec["texts"])
    begin_s = time.monotonic() + spec["warm_s"]
    end_s = begin_s + spec["seconds"]
    ended: list[tuple[float, int]] = []
    while time.monotonic() < end_s:
        window: list[Any] = engine.prepare(list(islice(texts, BATCH_SIZE)), [PARAMETERS] * BATCH_SIZE)
        for batch in plan_batches(engine.info.strategy, [request.tokens for request in window], limits):
            members = [window[index] for index in batch.indices]
            engine.collect(engine.forward(members, batch))
            now_s = time.monotonic()
            ended += [(now_s, request.tokens) for request in members]
    return {"begin_s": begin_s, "end_s": end_s, "ended": ended, "strategy": engine.info.strategy}


if __name__ == "__main__":
    part(measure)
