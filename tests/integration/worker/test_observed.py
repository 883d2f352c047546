"""A resident loop adds up what it saw of its batches, to the last one, and keeps it while Redis is away."""

from __future__ import annotations

import orjson
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tests.support.named_engine import NamedEngine
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.metrics import TIMES
from windrow.scheduler.queue.observations import read_observations
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.batches.batch_model import BatchModel

pytestmark = pytest.mark.integration


def test_every_batch_is_seen_though_the_loop_ends_right_behind_it(redis_client: Redis) -> None:
    queue = RedisQueue(redis_client, "m")
    ids = [f"r{number}" for number in range(10)]
    payload = orjson.dumps({"model": "m", "input": "hay", "parameters": {}})
    queue.submit([Submission(id, payload) for id in ids], flow="t:normal", weight=1.0, max_depth=100, max_bytes=1 << 20)
    lane = BatchModel(queue, NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0")
    BatchLoop({"m": lane}, lambda: not (queue.depth().waiting or queue.depth().running)).run()
    observed = read_observations(redis_client, "m")
    sizes = observed.histograms["batch_size"]
    assert sizes.sum == 10
    assert sum(observed.batches.values()) == sum(sizes.counts) >= 3
    assert sum(observed.histograms["batch_tokens"].counts) == sum(sizes.counts)
    assert observed.histograms["padding_ratio"].sum == 0
    assert observed.tokens["prompt"] == 10
    assert {name: sum(observed.histograms[name].counts) for name in TIMES} == dict.fromkeys(TIMES, 10)
    whole_s = sum(observed.histograms[name].sum for name in ("queue", "batch_wait", "compute"))
    assert observed.histograms["request"].sum == pytest.approx(whole_s, abs=1e-4)


def test_what_redis_did_not_take_is_stored_the_next_time(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(counts: object) -> None:
        raise RedisConnectionError("away")

    queue = RedisQueue(redis_client, "m")
    lane = BatchModel(queue, NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0")
    lane.status.observed.count_batch("idle")
    with monkeypatch.context() as broken:
        broken.setattr(queue, "observe", fail)
        with pytest.raises(RedisConnectionError):
            lane.store_observations()
    assert read_observations(redis_client, "m").batches["idle"] == 0
    lane.store_observations()
    lane.store_observations()
    assert read_observations(redis_client, "m").batches["idle"] == 1


def test_what_redis_refuses_each_time_is_dropped_and_all_else_counted_once(
    redis_client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    lane = BatchModel(
        RedisQueue(redis_client, "m"), NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0"
    )
    lane.status.observed.count_batch("idle")
    lane.status.observed.count_tokens("completion", 1 << 64)  # more than Redis can add up
    lane.status.observed.count_batch("wait")
    for _ in range(3):
        lane.store_observations()
    observed = read_observations(redis_client, "m")
    assert (observed.batches["idle"], observed.batches["wait"], observed.tokens["completion"]) == (1, 1, 0)
    assert "observations of tokens:completion are lost" in caplog.text
    lane.status.observed.count_tokens("completion", 5)
    lane.store_observations()
    assert read_observations(redis_client, "m").tokens["completion"] == 5


def test_of_what_was_refused_as_a_whole_nothing_is_counted(redis_client: Redis) -> None:
    lane = BatchModel(
        RedisQueue(redis_client, "m"), NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0"
    )
    lane.status.observed.count_batch("idle")
    lane.status.observed.count_batch("wait")
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisError, match="used memory > 'maxmemory'"):
            lane.store_observations()
    finally:
        redis_client.config_set("maxmemory", 0)
    assert read_observations(redis_client, "m").batches["idle"] == 0
    lane.store_observations()
    assert read_observations(redis_client, "m").batches == {"size": 0, "tokens": 0, "wait": 1, "idle": 1}
