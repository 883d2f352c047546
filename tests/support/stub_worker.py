"""``celery -A tests.support.stub_worker worker``: the real worker with models whose inputs select their behaviour.

An input is a text, which is also the output, or ``{"do": ..., "name": ...}``; see `StubEngine`. The file named by
``STUB_JOURNAL`` receives one line per batch with the names of its inputs, separated by spaces.
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
    """``sleep`` and ``hold`` take ``s`` seconds, ``hold`` with the GIL held; ``die`` kills the process."""

    busy_s = 0.0

    def __init__(self, model: str) -> None:
        self.info = EngineInfo(model, "embed", "packed", None, "cpu", "float32", 512)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Count each input as one token."""
        return [Prepared(1, item if isinstance(item, dict) else {"do": "answer", "name": item}) for item in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> list[Any]:
        """Run the inputs one after another."""
        with open(os.environ["STUB_JOURNAL"], "a", encoding="utf-8") as journal:
            journal.write(" ".join(request.data["name"] for request in prepared) + "\n")
        for request in prepared:
            match request.data["do"]:
                case "sleep":
                    time.sleep(request.data["s"])
                case "hold":
                    ctypes.PyDLL(None).sleep(request.data["s"])
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
        return [request.data["name"] for request in prepared]

    def collect(self, handle: list[Any]) -> list[Outcome]:
        """Return the name of each input."""
        return [Done({"name": name}) for name in handle]


def open_stub_models(settings: Settings, worker: str, *, is_spare: bool = False) -> dict[str, BatchModel]:
    """Return a served model with a stub engine for every model of the settings."""
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
    """Load a stub engine again; fails if the journal's folder has a file named ``broken``."""
    if Path(os.environ["STUB_JOURNAL"]).with_name("broken").exists():
        raise ModelUnusable("its files are broken")
    return StubEngine(model)


process.take_share = lambda *_: None  # type: ignore[assignment]
process.open_models = open_stub_models
loading.load_engine_afresh = load_stub  # type: ignore[assignment]
