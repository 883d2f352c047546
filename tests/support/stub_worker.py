"""``celery -A tests.support.stub_worker worker``: the real worker, with models that do what their input says.

An input is a text that is answered with itself, or ``{"do": ..., "name": ...}``; see `StubEngine`. Every pass is noted
in the file named by ``STUB_JOURNAL``: the names in it, separated by spaces, one line a pass.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.celery.app import app
from windrow.worker.engines import loading
from windrow.worker.engines.base import EngineInfo, Prepared
from windrow.worker.pool import pool_process as process

__all__ = ["app"]


class StubEngine:
    """``sleep`` and ``hold`` (the interpreter's lock too) take ``s`` seconds of a forward, ``die`` ends the process."""

    busy_s = 0.0

    def __init__(self, model: str) -> None:
        self.info = EngineInfo(model, "embed", "packed", None, "cpu", "float32", 512)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """One token each."""
        return [Prepared(1, one if isinstance(one, dict) else {"do": "answer", "name": one}) for one in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> list[Any]:
        """Do what each input says, one after another."""
        with open(os.environ["STUB_JOURNAL"], "a", encoding="utf-8") as journal:
            journal.write(" ".join(one.data["name"] for one in prepared) + "\n")
        for one in prepared:
            match one.data["do"]:
                case "sleep":
                    time.sleep(one.data["s"])
                case "hold":
                    ctypes.PyDLL(None).sleep(one.data["s"])
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
        return [one.data["name"] for one in prepared]

    def collect(self, handle: list[Any]) -> list[Outcome]:
        """Every input's name."""
        return [Done({"name": name}) for name in handle]


def open_stub_lanes(settings: Settings, worker: str, *, is_spare: bool = False) -> dict[str, BatchModel]:
    """A lane with a stub for every model of the settings."""
    redis = connect(settings.redis_url)
    return {
        name: BatchModel(
            RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts),
            StubEngine(name),
            BatchLimits(model.max_batch_size, model.max_batch_tokens),
            model.max_wait_s,
            settings.lease_s,
            worker,
            is_spare,
        )
        for name, model in settings.models.items()
    }


def load_stub(model: str, settings: ModelSettings) -> StubEngine:
    """A stub loaded anew; it fails where the journal has a neighbour named ``broken``."""
    if Path(os.environ["STUB_JOURNAL"]).with_name("broken").exists():
        raise ModelUnusable("its files are broken")
    return StubEngine(model)


process.take_share = lambda *_: None  # type: ignore[assignment]
process.open_models = open_stub_lanes
loading.load_engine_afresh = load_stub  # type: ignore[assignment]
