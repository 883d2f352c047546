"""The bound of ``bench http``: the engine alone on the machine, rows in arrival order. Run by `run_part`."""

from __future__ import annotations

import os
import time
from itertools import cycle, islice
from typing import Any

from windrow.bench.programs import part
from windrow.bench.workload import BATCH_SIZE, MODEL, model_settings
from windrow.scheduler.core.planning import plan_batches

PARAMETERS = {"truncate": True}


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Tokenise, plan, forward, collect, over and over; returns ``ended`` as ``(when, tokens)`` of each text."""
    import torch

    from windrow.worker.engines.loading import batch_limits, load_batch_engine

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = model_settings()
    engine = load_batch_engine(MODEL, settings)
    limits = batch_limits(settings, engine.info)
    texts = cycle(spec["texts"])
    begin_s = time.monotonic() + spec["warm_s"]
    end_s = begin_s + spec["seconds"]
    ended: list[tuple[float, int]] = []
    while time.monotonic() < end_s:
        row: list[Any] = engine.prepare(list(islice(texts, BATCH_SIZE)), [PARAMETERS] * BATCH_SIZE)
        for batch in plan_batches(engine.info.strategy, [one.tokens for one in row], limits):
            members = [row[index] for index in batch.indices]
            engine.collect(engine.forward(members, batch))
            now_s = time.monotonic()
            ended += [(now_s, one.tokens) for one in members]
    return {"begin_s": begin_s, "end_s": end_s, "ended": ended, "strategy": engine.info.strategy}


if __name__ == "__main__":
    part(measure)
