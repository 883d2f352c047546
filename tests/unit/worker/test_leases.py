"""What a worker process says of a model that it holds."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from windrow.worker.engines.base import EngineInfo
from windrow.worker.leases.leases import Leases


class Queue:
    model = "m"

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def heartbeat(self, worker: str, info: bytes, *, stale_s: float) -> None:
        self.said.append(orjson.loads(info))


class Worked:
    info = EngineInfo("m", "embed", "packed", None, "cuda", "bfloat16", 512)
    busy_s = 0.0


@pytest.mark.parametrize(("busy_s", "ratio"), [(0.0, 0.0), (1e6, 1.0)])
def test_a_heartbeat_says_how_busy_the_device_was(busy_s: float, ratio: float) -> None:
    queue, engine = Queue(), Worked()
    holder = Leases(queue, engine, 15.0, "worker@test/0")  # type: ignore[arg-type]
    engine.busy_s = busy_s
    holder.heartbeat()
    holder.heartbeat()  # nothing since
    assert [said["device_busy_ratio"] for said in queue.said] == [ratio, 0.0]
