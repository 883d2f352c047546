"""The model call itself, in a process of its own that answers on stdin and stdout: what ``bench lone`` compares with.

One line in, a JSON list of texts; one line out, the seconds that each of them took. It sleeps in between.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import orjson

from benchmarks.http.offline import PARAMETERS
from windrow.bench.workload import MODEL, model_settings
from windrow.scheduler.core.planning import plan_batches


def main() -> None:
    """Load the model, say so with an empty line, and answer until stdin closes."""
    import torch

    from windrow.worker.engines.loading import batch_limits, load_batch_engine

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = model_settings()
    engine = load_batch_engine(MODEL, settings)
    limits = batch_limits(settings, engine.info)

    def call(text: str) -> float:
        began_s = time.perf_counter()
        prepared: list[Any] = engine.prepare([text], [PARAMETERS])
        (batch,) = plan_batches(engine.info.strategy, [prepared[0].tokens], limits)
        engine.collect(engine.forward(prepared, batch))
        return time.perf_counter() - began_s

    _answer([])
    for line in sys.stdin.buffer:
        _answer([call(text) for text in orjson.loads(line)])


def _answer(took_s: list[float]) -> None:
    sys.stdout.buffer.write(orjson.dumps(took_s) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
