"""An engine without a model, whose batches take the time that a cost model predicts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from windrow.bench.workload import MODEL
from windrow.lab.costs.cost import PassCost
from windrow.lab.simulate.batch_runner import BatchRunner
from windrow.lab.simulate.device import Policy
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import EngineInfo, Prepared


class PacedEngine:
    """An `Engine` whose inputs are lengths in tokens. It sleeps for as long as each batch would compute."""

    def __init__(self, policy: Policy, cost: PassCost) -> None:
        self.info = EngineInfo(MODEL, "embed", policy.strategy, None, "pretended", "none", policy.limits.static_length)
        self.busy_s = 0.0
        self._cost, self._batches = cost, BatchRunner(0, cost)
        self._started = self._finished = 0
        self._lock = threading.Lock()

    def expect(self, arrival_s: Sequence[float]) -> None:
        """Set the arrival times (`time.monotonic`) of requests, whose chores slow batches down. Call it while idle."""
        with self._lock:
            self._batches = BatchRunner(0, self._cost, chores_at_s=arrival_s)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Take each input as its length in tokens."""
        return [Prepared(tokens, None) for tokens in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> tuple[int, int]:
        """Sleep until the device can start the batch; returns the batch's number and its number of requests."""
        members = range(len(prepared))
        lengths = [request.tokens for request in prepared]
        with self._lock:
            self._finish_due()
            self._batches.begin(replace(batch, indices=tuple(members)), members, lengths, time.monotonic())
            self._started += 1
            number = self._started
        self._sleep_until(lambda: self._batches.has_room)
        return number, len(prepared)

    def collect(self, handle: tuple[int, int]) -> list[Outcome]:
        """Sleep until the batch has finished; returns an empty output per request."""
        number, count = handle
        self._sleep_until(lambda: self._finished >= number)
        return [Done({})] * count

    def _sleep_until(self, is_due: Callable[[], bool]) -> None:
        while True:
            with self._lock:
                self._finish_due()
                if is_due():
                    return
                ends_s = self._batches.ends_s
            time.sleep(max(0.0, ends_s - time.monotonic()))

    def _finish_due(self) -> None:
        while self._batches.ends_s <= time.monotonic():
            self._finished += len(self._batches.end(self._batches.ends_s))
