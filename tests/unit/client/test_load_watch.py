"""Which models a starting stack regards as served and as failed."""

from __future__ import annotations

import time

import fakeredis
import pytest

from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import report_load_failure
from windrow.stack.load_watch import LoadWatch


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


def serve(redis: fakeredis.FakeRedis, model: str) -> None:
    RedisQueue(redis, model).heartbeat("worker@a/0", Heartbeat(), stale_s=60)


def test_the_state_is_settled_when_each_model_is_served_or_failed(redis: fakeredis.FakeRedis) -> None:
    watch = LoadWatch(redis, ["good", "broken"])
    report_load_failure(redis, "broken", "worker@a/0", "no safetensors")
    assert not watch.is_settled()
    assert watch.failures() == {"broken": "model 'broken' could not be loaded: worker@a/0: no safetensors"}
    serve(redis, "good")
    assert watch.is_settled()
    serve(redis, "broken")  # by another process
    assert watch.is_settled()
    assert watch.failures() == {}


def test_failures_of_an_earlier_run_do_not_count(redis: fakeredis.FakeRedis) -> None:
    report_load_failure(redis, "broken", "worker@a/0", "no safetensors")
    serve(redis, "good")
    time.sleep(0.002)
    watch = LoadWatch(redis, ["good", "broken"])
    assert watch.failures() == {}
    assert not watch.is_settled()
