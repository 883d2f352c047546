"""One process of `benchmarks.encoder.run`: it loads the model and serves; the first of them measures the bound too."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from redis import Redis

from windrow.bench.programs import part
from windrow.bench.stats import median
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
#: Processes that have loaded; set once the bound was measured; how many devices serve; set when all is asked for.
LOADED_KEY, READY_KEY, DEVICES_KEY, STOP_KEY = "bench:loaded", "bench:ready", "bench:devices", "bench:stop"
#: How often a process looks at them, in seconds.
LOOK_S = 0.05
#: Passes on their way to the device while one is collected, as in the resident loop.
AHEAD = 2
LONE_CALLS = 100


class Counted:
    """An `Engine` that notes when each of its passes was collected, and how many tokens they computed."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.info = engine, engine.info
        self.busy_s = 0.0
        #: When a pass was collected, `time.monotonic`, and how many texts it had.
        self.ended: list[tuple[float, int]] = []
        self.tokens = self.asked_tokens = 0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """As the engine does it."""
        return self.engine.prepare(inputs, parameters)

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        """As the engine does it."""
        self.tokens += batch.tokens
        self.asked_tokens += batch.asked_tokens
        return self.engine.forward(prepared, batch)

    def collect(self, handle: Any) -> list[Outcome]:
        """As the engine does it."""
        outcomes = self.engine.collect(handle)
        self.busy_s = self.engine.busy_s
        self.ended.append((time.monotonic(), len(outcomes)))
        return outcomes


def serve(spec: dict[str, Any]) -> dict[str, Any]:
    """Load the model, serve as long as the parent wants, and return the passes; the first process also the bound.

    Process ``rank`` of ``ranks`` has device ``rank % devices``.
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
    counted = Counted(engine)
    freeze_loaded_objects()
    max_wait_s, is_spare = settings.max_wait_s, rank >= devices
    lane = BatchModel(RedisQueue(redis, MODEL), counted, limits, max_wait_s, 15.0, f"bench/{rank}", is_spare)
    stop, active = Number(redis, STOP_KEY), Number(redis, DEVICES_KEY)
    BatchLoop({MODEL: lane}, stop, drained=lambda: rank % devices >= active()).run()
    redis.decr(LOADED_KEY)
    if rank == 0:
        _wait_for(redis, LOADED_KEY, 0)
        report["bound_after_per_s"] = bound(engine, spec["texts"], limits, spec["seconds"])
    return report | {"ended": counted.ended, "tokens": counted.tokens, "asked_tokens": counted.asked_tokens}


def _wait_for(redis: Redis, key: str, number: int) -> None:
    while _number(redis, key) != number:
        time.sleep(LOOK_S)


def _number(redis: Redis, key: str) -> int:
    text: Any = redis.get(key)
    return int(text or 0)


class Number:
    """A number that the parent keeps in Redis, 0 where it is not there; looked up every `LOOK_S` at most."""

    def __init__(self, redis: Redis, key: str) -> None:
        self._redis, self._key, self._looked_s, self._seen = redis, key, 0.0, 0

    def __call__(self) -> int:
        """What it was a moment ago."""
        if time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s, self._seen = time.monotonic(), _number(self._redis, self._key)
        return self._seen


def bound(engine: Engine, texts: list[str], limits: BatchLimits, seconds: float) -> float:
    """Texts a second of the device alone: tokenised before, the same plans, results thrown away."""
    ready: list[Any] = engine.prepare(texts, [{"truncate": True}] * len(texts))
    plans = []
    for start in range(0, len(ready), limits.max_batch_size):
        row = ready[start : start + limits.max_batch_size]
        for batch in plan_batches(engine.info.strategy, [one.tokens for one in row], limits):
            plans.append((batch, [row[index] for index in batch.indices]))
    under_way: deque[tuple[Any, int]] = deque()
    done, from_s, now_s = 0, time.monotonic(), 0.0
    for batch, members in cycle(plans):
        under_way.append((engine.forward(members, batch), len(members)))
        if len(under_way) >= AHEAD:
            handle, count = under_way.popleft()
            wait_for(handle)
            done += count
            now_s = time.monotonic()
            if now_s - from_s > seconds:
                break
    for handle, _ in under_way:
        wait_for(handle)
    return done / (now_s - from_s)


def wait_for(handle: Any) -> None:
    """Until the rows have arrived; nothing is made of them."""
    handle.span[1].synchronize()


def lone_call_ms(engine: Engine, texts: list[str], limits: BatchLimits) -> float:
    """Median milliseconds of one text through the engine: tokenise, forward, collect."""
    took_s = []
    for text in islice(cycle(texts), LONE_CALLS):
        began_s = time.perf_counter()
        row: list[Any] = engine.prepare([text], [{"truncate": True}])
        (batch,) = plan_batches(engine.info.strategy, [row[0].tokens], limits)
        engine.collect(engine.forward(row, batch))
        took_s.append(time.perf_counter() - began_s)
    return median(took_s) * 1e3


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    part(serve)
