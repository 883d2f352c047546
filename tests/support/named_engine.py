"""An engine whose output is its name, for loops that run in the process of the test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import EngineInfo, Prepared


class NamedEngine:
    """Answers with its name; fails if another engine prepared the request or started the batch."""

    def __init__(self, name: str, batch_s: float = 0.005) -> None:
        self.info = EngineInfo("m", "embed", "packed", None, "cpu", "float32", 512)
        self.busy_s = 0.0
        self.name = name
        self.sizes: list[int] = []
        self._batch_s = batch_s

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Any]) -> list[Prepared]:
        return [Prepared(1, self.name) for _ in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> tuple[str, int]:
        assert {request.data for request in prepared} == {self.name}
        self.sizes.append(len(prepared))
        return self.name, len(prepared)

    def collect(self, handle: tuple[str, int]) -> list[Outcome]:
        time.sleep(self._batch_s)
        self.busy_s += self._batch_s
        assert handle[0] == self.name
        return [Done(self.name)] * handle[1]
