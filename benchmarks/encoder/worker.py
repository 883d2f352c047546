"""A pool process of `benchmarks.encoder.run`: loads the model and serves; the first process also measures the bound."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from redis import Redis

from benchmarks.stats import median
from windrow.bench.programs import part
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.outcomes import Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.engines.base import Engine, Prepared
from windrow.worker.engines.loading import batch_limits, load_batch_engine
from windrow.worker.pool.pool_process import take_share
from windrow.worker.process.garbage_collector import freeze_loaded_objects

MODEL = "bert"
#: Redis keys: number of loaded processes; set after the bound was measured; number of serving devices; set at the end.
LOADED_KEY, READY_KEY, DEVICES_KEY, STOP_KEY = "bench:loaded", "bench:ready", "bench:devices", "bench:stop"
#: Seconds between two reads of these keys.
READ_S = 0.05
#: Batches queued on the device while one is collected, as in the batch loop.
IN_FLIGHT = 2
LONE_CALLS = 100


class CountingEngine:
    """An `Engine` that records when each batch was collected, and counts the computed tokens."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.info = engine, engine.info
        self.busy_s = 0.0
        #: Time at which each batch was collected (`time.monotonic`), and its number of texts.
        self.ended: list[tuple[float, int]] = []
        self.tokens = self.asked_tokens = 0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Prepare with the wrapped engine."""
        return self.engine.prepare(inputs, parameters)

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """Count the tokens, and start the batch."""
        self.tokens += batch.tokens
        self.asked_tokens += batch.asked_tokens
        return self.engine.forward(prepared, batch)

    def collect(self, handle: Any) -> list[Outcome]:
        """Record the time, and return the outcomes."""
        outcomes = self.engine.collect(handle)
        self.busy_s = self.engine.busy_s
        self.ended.append((time.monotonic(), len(outcomes)))
        return outcomes


def serve(spec: dict[str, Any]) -> dict[str, Any]:
    """Load the model, serve until the parent stops it, and return the batches; the first process adds the bound.

    Process ``rank`` of ``ranks`` uses device ``rank % devices``.
    """
    rank, ranks, devices = spec["rank"], spec["ranks"], spec["devices"]
    take_share(rank, ranks)
    settings = ModelSettings.model_validate(spec["model"])
    began_s = time.monotonic()
    engine = load_batch_engine(MODEL, settings)
    report: dict[str, Any] = {"load_s": time.monotonic() - began_s, "relative_error": engine.info.relative_error}
    limits = batch_limits(settings, engine.info)
    redis = connect(spec["url"])
    redis.incr(LOADED_KEY)
    if rank == 0:
        _wait_for(redis, LOADED_KEY, ranks)
        report["bound_per_s"] = bound(engine, spec["texts"], limits, spec["seconds"])
        report["lone_call_ms"] = lone_call_ms(engine, spec["texts"], limits)
        redis.set(READY_KEY, 1)
    _wait_for(redis, READY_KEY, 1)
    counting = CountingEngine(engine)
    freeze_loaded_objects()
    max_wait_s, is_spare = settings.max_wait_s, rank >= devices
    served = BatchModel(RedisQueue(redis, MODEL), counting, limits, max_wait_s, 15.0, f"bench/{rank}", is_spare)
    stop, active = CachedNumber(redis, STOP_KEY), CachedNumber(redis, DEVICES_KEY)
    BatchLoop({MODEL: served}, stop, drained=lambda: rank % devices >= active()).run()
    redis.decr(LOADED_KEY)
    if rank == 0:
        _wait_for(redis, LOADED_KEY, 0)
        report["bound_after_per_s"] = bound(engine, spec["texts"], limits, spec["seconds"])
    return report | {"ended": counting.ended, "tokens": counting.tokens, "asked_tokens": counting.asked_tokens}


def _wait_for(redis: Redis, key: str, number: int) -> None:
    while _number(redis, key) != number:
        time.sleep(READ_S)


def _number(redis: Redis, key: str) -> int:
    text: Any = redis.get(key)
    return int(text or 0)


class CachedNumber:
    """A number in Redis, 0 if the key is missing, read at most every `READ_S`."""

    def __init__(self, redis: Redis, key: str) -> None:
        self._redis, self._key, self._read_s, self._value = redis, key, 0.0, 0

    def __call__(self) -> int:
        """Return the number, up to `READ_S` old."""
        if time.monotonic() - self._read_s > READ_S:
            self._read_s, self._value = time.monotonic(), _number(self._redis, self._key)
        return self._value


def bound(engine: Engine, texts: list[str], limits: BatchLimits, seconds: float) -> float:
    """Measure texts per second of the device alone: tokenized beforehand, planned the same way, results discarded."""
    ready: list[Any] = engine.prepare(texts, [{"truncate": True}] * len(texts))
    plans = []
    for start in range(0, len(ready), limits.max_batch_size):
        window = ready[start : start + limits.max_batch_size]
        for batch in plan_batches(engine.info.strategy, [request.tokens for request in window], limits):
            plans.append((batch, [window[index] for index in batch.indices]))
    in_flight: deque[tuple[Any, int]] = deque()
    done, from_s, now_s = 0, time.monotonic(), 0.0
    for batch, members in cycle(plans):
        in_flight.append((engine.forward(members, batch), len(members)))
        if len(in_flight) >= IN_FLIGHT:
            handle, count = in_flight.popleft()
            wait_for(handle)
            done += count
            now_s = time.monotonic()
            if now_s - from_s > seconds:
                break
    for handle, _ in in_flight:
        wait_for(handle)
    return done / (now_s - from_s)


def wait_for(handle: Any) -> None:
    """Wait until the results have arrived, and discard them."""
    handle.events[1].synchronize()


def lone_call_ms(engine: Engine, texts: list[str], limits: BatchLimits) -> float:
    """Measure the median milliseconds in which the engine tokenizes and computes one text."""
    took_s = []
    for text in islice(cycle(texts), LONE_CALLS):
        began_s = time.perf_counter()
        prepared: list[Any] = engine.prepare([text], [{"truncate": True}])
        (batch,) = plan_batches(engine.info.strategy, [prepared[0].tokens], limits)
        engine.collect(engine.forward(prepared, batch))
        took_s.append(time.perf_counter() - began_s)
    return median(took_s) * 1e3


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    part(serve)
