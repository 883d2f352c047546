"""``windrow bench record --pretend``: the real queue and the real batch loop over a device that sleeps.

The time of each batch is then known exactly, so that a comparison with the simulator shows the error of the simulated
scheduler alone, without the error of the cost model.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from windrow.bench.paced_engine import PacedEngine
from windrow.bench.programs import BenchFailed, check_interrupts, own_redis
from windrow.bench.record.load import WARM, Load, queue_s, recorded, send_when_due
from windrow.bench.workload import MODEL, counted_texts
from windrow.lab.costs.cost import CostModel
from windrow.lab.measure.recording import Recorded, Recording
from windrow.lab.measure.run_file import rebased
from windrow.lab.simulate.device import Policy
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue, Request, Submission
from windrow.scheduler.queue.ids import make_id
from windrow.stack.supervisor import Interrupts
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.batches.batch_model import BatchModel

SECRET = b"of a benchmark"
#: Time limit for the last request, in seconds.
END_S = 60.0
Say = Callable[[str], None]


class RecordingQueue(RedisQueue):
    """A queue that keeps the requests that it finished."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended: list[Request] = []

    def finish(self, requests: Sequence[Request], **more: Any) -> Any:
        """Store the results and keep the requests."""
        self.ended += requests
        return super().finish(requests, **more)


def record_paced(policy: Policy, cost: CostModel, load: Load, say: Say) -> Recording:
    """Send requests to a worker with a `PacedEngine`, and return the run."""
    _, tokens = counted_texts(load.requests)
    line = cost.of_strategy(policy.strategy)
    engine = PacedEngine(policy, replace(line, spread=()))
    with (
        tempfile.TemporaryDirectory(prefix="windrow-bench-") as name,
        Interrupts() as interrupts,
        own_redis(Path(name), interrupts, durable=False) as url,
    ):
        queue = RecordingQueue(connect(url), MODEL)
        served = BatchModel(queue, engine, policy.limits, policy.max_wait_s, 15.0, "bench")
        stop = threading.Event()
        worker = threading.Thread(target=BatchLoop({MODEL: served}, lambda: int(stop.is_set())).run)
        worker.start()
        try:
            for length in tokens[:WARM]:
                _submit(queue, length)
            _wait_for(queue, WARM)
            say(load.describe())
            due_s = load.due_s()
            engine.expect(due_s)
            ids = send_when_due(partial(_submit, queue), tokens, due_s, partial(check_interrupts, interrupts))
            _wait_for(queue, WARM + load.requests)
        finally:
            stop.set()
            worker.join()
    ended = {ending.id: ending for ending in queue.ended}
    about = load.about("pretended") | {"lanes": line.lanes}
    return Recording(policy, 1, about, rebased([_recorded(ended[id]) for id in ids]))


def _submit(queue: RedisQueue, tokens: int) -> str:
    payload = b'{"model": "%s", "input": %d}' % (MODEL.encode(), tokens)
    submission = Submission(make_id(SECRET, "bench"), payload, cost_tokens=tokens)
    return queue.submit([submission], flow="bench:normal", weight=4.0, max_depth=1 << 40, max_bytes=1 << 50).ids[0]


def _wait_for(queue: RecordingQueue, count: int) -> None:
    end_s = time.monotonic() + END_S
    while len(queue.ended) < count:
        if time.monotonic() > end_s:
            raise BenchFailed(f"{count - len(queue.ended)} requests did not finish")
        time.sleep(0.02)


def _recorded(request: Request) -> Recorded:
    metrics, started_s = request.metrics or {}, request.started_s
    if started_s is None or not isinstance(request.outcome, Done):
        raise BenchFailed(f"request {request.id} did not succeed")
    return recorded(started_s - queue_s(metrics), metrics)
