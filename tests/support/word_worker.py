"""``celery -A tests.support.word_worker worker``: the real worker with models that generate word by word."""

from __future__ import annotations

from tests.support.word_engine import WordEngine
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.celery.app import app
from windrow.worker.pool import pool_process as process
from windrow.worker.steps.step_model import StepModel

__all__ = ["app"]

STEP_S = 0.02


def open_word_lanes(settings: Settings, worker: str, *, is_spare: bool = False) -> dict[str, BatchModel | StepModel]:
    """Return a served model for every model of the settings."""
    redis = connect(settings.redis_url)
    return {
        name: StepModel(redis, RedisQueue(redis, name), WordEngine(name, step_s=STEP_S), settings.lease_s, worker)
        for name in settings.models
    }


process.take_share = lambda *_: None  # type: ignore[assignment]
process.open_models = open_word_lanes
