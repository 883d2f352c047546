"""The heartbeats of a pool process for a model that it serves."""

from __future__ import annotations

import pytest

from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.worker.engines.base import EngineInfo
from windrow.worker.process.model_status import ModelStatus


class Queue:
    def __init__(self) -> None:
        self.heartbeats: list[Heartbeat] = []

    def heartbeat(self, worker: str, heartbeat: Heartbeat, *, stale_s: float) -> None:
        self.heartbeats.append(heartbeat)


class BusyEngine:
    info = EngineInfo("m", "embed", "packed", None, "cuda", "bfloat16", 512)
    busy_s = 0.0


@pytest.mark.parametrize(("busy_s", "ratio"), [(0.0, 0.0), (1e6, 1.0)])
def test_a_heartbeat_reports_the_busy_ratio_of_the_device_since_the_previous_one(busy_s: float, ratio: float) -> None:
    queue, engine = Queue(), BusyEngine()
    status = ModelStatus(queue, engine, "worker@test/0")  # type: ignore[arg-type]
    engine.busy_s = busy_s
    status.heartbeat(engine, held=0)  # type: ignore[arg-type]
    status.heartbeat(engine, held=0)  # type: ignore[arg-type]
    assert [heartbeat.device_busy_ratio for heartbeat in queue.heartbeats] == [ratio, 0.0]
