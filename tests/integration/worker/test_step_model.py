"""A lane of a model that generates, called by hand on a real Redis: what it tells of its engine."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL
from tests.support.word_engine import WordEngine
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.observations import read_observations
from windrow.worker.engines.generation.cache_metrics import CacheMetrics, HasCache
from windrow.worker.steps.step_model import StepModel

pytestmark = pytest.mark.integration


class CachedEngine(WordEngine):
    """One whose sequences make room."""

    def __init__(self, preemptions: int = 0) -> None:
        super().__init__(MODEL)
        self.preemptions = preemptions

    def cache_use(self) -> CacheMetrics:
        return CacheMetrics(0, self.preemptions)


def test_those_that_make_room_are_counted_once_over_all_engines(redis_client: Redis) -> None:
    engine = CachedEngine(3)
    assert isinstance(engine, HasCache)
    lane = StepModel(redis_client, RedisQueue(redis_client, MODEL), engine, 60.0, "worker@test/0")

    def counted() -> int:
        lane.store_observations()
        return read_observations(redis_client, MODEL).preemptions

    assert (counted(), counted()) == (3, 3)
    engine.preemptions = 5
    assert counted() == 5
    engine.preemptions = 6
    lane.replace_engine(CachedEngine(2))
    assert counted() == 8
