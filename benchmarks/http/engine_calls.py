"""The model call alone in its own process, with which ``python -m benchmarks lone`` compares.

Each line on stdin is a JSON list of texts; the answer on stdout is the list of seconds that each call took.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import orjson

from benchmarks.http.offline import PARAMETERS, load_engine
from windrow.scheduler.core.planning import plan_batches


def main() -> None:
    """Load the model, print an empty list, and answer until stdin closes."""
    engine, limits = load_engine()

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
