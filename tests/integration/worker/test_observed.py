"""The batch loop counts every batch for the metrics and keeps the counts while Redis is unavailable."""

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


def test_every_batch_is_counted_even_if_the_loop_stops_immediately_afterwards(redis_client: Redis) -> None:
    queue = RedisQueue(redis_client, "m")
    ids = [f"r{number}" for number in range(10)]
    payload = orjson.dumps({"model": "m", "input": "hay", "parameters": {}})
    queue.submit([Submission(id, payload) for id in ids], flow="t:normal", weight=1.0, max_depth=100, max_bytes=1 << 20)
    model = BatchModel(queue, NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0")
    BatchLoop({"m": model}, lambda: not (queue.depth().waiting or queue.depth().running)).run()
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


def test_counts_that_could_not_be_stored_are_stored_the_next_time(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(counts: object) -> None:
        raise RedisConnectionError("unavailable")

    queue = RedisQueue(redis_client, "m")
    model = BatchModel(queue, NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0")
    model.status.observed.count_batch("idle")
    with monkeypatch.context() as broken:
        broken.setattr(queue, "observe", fail)
        with pytest.raises(RedisConnectionError):
            model.store_observations()
    assert read_observations(redis_client, "m").batches["idle"] == 0
    model.store_observations()
    model.store_observations()
    assert read_observations(redis_client, "m").batches["idle"] == 1


def test_a_count_that_redis_always_refuses_is_dropped_and_the_others_are_stored_once(
    redis_client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    model = BatchModel(
        RedisQueue(redis_client, "m"), NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0"
    )
    model.status.observed.count_batch("idle")
    model.status.observed.count_tokens("completion", 1 << 64)  # overflows the 64-bit integers of Redis
    model.status.observed.count_batch("wait")
    for _ in range(3):
        model.store_observations()
    observed = read_observations(redis_client, "m")
    assert (observed.batches["idle"], observed.batches["wait"], observed.tokens["completion"]) == (1, 1, 0)
    assert "observations of tokens:completion are lost" in caplog.text
    model.status.observed.count_tokens("completion", 5)
    model.store_observations()
    assert read_observations(redis_client, "m").tokens["completion"] == 5


def test_no_count_is_stored_if_redis_refuses_the_whole_transaction(redis_client: Redis) -> None:
    model = BatchModel(
        RedisQueue(redis_client, "m"), NamedEngine("m"), BatchLimits(4, 1000), 0.01, 60.0, "worker@test/0"
    )
    model.status.observed.count_batch("idle")
    model.status.observed.count_batch("wait")
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisError, match="used memory > 'maxmemory'"):
            model.store_observations()
    finally:
        redis_client.config_set("maxmemory", 0)
    assert read_observations(redis_client, "m").batches["idle"] == 0
    model.store_observations()
    assert read_observations(redis_client, "m").batches == {"size": 0, "tokens": 0, "wait": 1, "idle": 1}
