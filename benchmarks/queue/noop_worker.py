"""A worker with a no-op model and the real batch loop. Run by `run_part`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from windrow.bench.programs import part
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.engines.base import EngineInfo, Prepared

MODEL = "noop"
NOTHING = Done({"ok": True})


class NoopEngine:
    """An `Engine` that answers at once and records the times."""

    info = EngineInfo(MODEL, "embed", "packed", None, "cpu", "float32", 512)

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.done = 0
        #: When the first request was prepared and the last was collected (`time.monotonic`).
        self.first_s: float | None = None
        self.last_s = 0.0
        #: CPU seconds of this process at these times.
        self.first_cpu_s = self.last_cpu_s = 0.0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Count each input as one token."""
        if self.first_s is None:
            self.first_s, self.first_cpu_s = time.monotonic(), time.process_time()
        return [Prepared(1, None) for _ in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> int:
        """Compute nothing."""
        return len(prepared)

    def collect(self, handle: int) -> list[Outcome]:
        """Return the same answer for every request."""
        self.done += handle
        self.last_s, self.last_cpu_s = time.monotonic(), time.process_time()
        return [NOTHING] * handle


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Process ``items`` requests; return the wall and CPU seconds between the first claim and the last finish."""
    engine = NoopEngine()
    queue = RedisQueue(connect(spec["url"]), MODEL)
    limits = BatchLimits(max_batch_size=spec["batch_size"], max_batch_tokens=1 << 30)
    served = BatchModel(queue, engine, limits, max_wait_s=0.005, lease_s=15.0, worker="bench")
    BatchLoop({MODEL: served}, lambda: engine.done >= spec["items"]).run()
    assert engine.first_s is not None
    took_s, used_s = engine.last_s - engine.first_s, engine.last_cpu_s - engine.first_cpu_s
    return {"took_s": took_s, "done": engine.done, "cpu_s": used_s}


if __name__ == "__main__":
    part(measure)
