"""The metrics that a step model reports about its engine, tested without a loop on a real Redis."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL
from tests.support.word_engine import WordEngine
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.observations import read_observations
from windrow.worker.engines.base import CacheMetrics, HasCache
from windrow.worker.steps.step_model import StepModel

pytestmark = pytest.mark.integration


class CachedEngine(WordEngine):
    """An engine that preempts sequences."""

    def __init__(self, preemptions: int = 0) -> None:
        super().__init__(MODEL)
        self.preemptions = preemptions

    def cache_use(self) -> CacheMetrics:
        return CacheMetrics(0, self.preemptions)


def test_preemptions_are_counted_once_across_reloads(redis_client: Redis) -> None:
    engine = CachedEngine(3)
    assert isinstance(engine, HasCache)
    model = StepModel(redis_client, RedisQueue(redis_client, MODEL), engine, 60.0, "worker@test/0")

    def count_stored() -> int:
        model.store_observations()
        return read_observations(redis_client, MODEL).preemptions

    assert (count_stored(), count_stored()) == (3, 3)
    engine.preemptions = 5
    assert count_stored() == 5
    engine.preemptions = 6
    model.replace_engine(CachedEngine(2))
    assert count_stored() == 8
