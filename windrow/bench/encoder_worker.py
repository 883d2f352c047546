"""The worker of `windrow.bench.encoder`: the bound, the resident loop, the bound again. Run by `run_part`."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from redis import Redis

from scheduler.core.outcomes import Failed, Outcome
from scheduler.core.planning import Batch, BatchLimits, plan_batches
from scheduler.queue import RedisQueue
from scheduler.queue.connection import connect
from scheduler.settings import ModelSettings
from windrow.bench.programs import part
from windrow.bench.stats import median
from worker.engines.base import Engine, Prepared
from worker.engines.loading import batch_limits, load_engine
from worker.lane import Lane
from worker.process import take_share
from worker.resident import Resident

MODEL = "bert"
#: The parent says so when it has asked for everything.
STOP_KEY, READY_KEY = "bench:stop", "bench:ready"
#: Passes on their way to the device while one is collected, as in the resident loop.
AHEAD = 2
LONE_CALLS = 100


class Counted:
    """An `Engine` that notes when its first input was prepared, and when each of its rows was collected."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.info = engine, engine.info
        self.busy_s = 0.0
        self.first_s: float | None = None
        #: When a pass was collected, how many texts it had, and how long the device had worked by then.
        self.ended: list[tuple[float, int, float]] = []
        self.tokens = self.asked_tokens = 0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """As the engine does it."""
        self.first_s = self.first_s or time.monotonic()
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
        self.ended.append((time.monotonic(), len(outcomes), self.busy_s))
        return outcomes


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns the bound, and what the resident loop did with ``items`` requests that waited before it began."""
    take_share(0, 1)
    settings = ModelSettings.model_validate(spec["model"])
    began_s = time.monotonic()
    engine = load_engine(MODEL, settings)
    report: dict[str, Any] = {"load_s": time.monotonic() - began_s, "engine": {"captured": engine.info.is_captured}}
    report["engine"] |= {"relative_error": engine.info.relative_error, "strategy": engine.info.strategy}
    limits = batch_limits(settings, engine.info)
    report["bound_per_s"] = bound(engine, spec["texts"], limits, spec["seconds"])
    report["lone_call_ms"] = lone_call_ms(engine, spec["texts"], limits)
    redis = connect(spec["url"])
    counted = Counted(engine)
    lane = Lane(RedisQueue(redis, MODEL), counted, limits, settings.max_wait_ms / 1e3, 15.0, "bench")
    redis.set(READY_KEY, 1)
    stop = Stop(redis)
    Resident({MODEL: lane}, stop).run()
    report["bound_after_per_s"] = bound(engine, spec["texts"], limits, spec["seconds"])
    return report | saturated(counted, spec["items"])


class Stop:
    """Whether the parent has said so; asked at most ten times a second."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._asked_s, self._said = redis, 0.0, False

    def __call__(self) -> int:
        """1 once the loop has to stop."""
        if not self._said and time.monotonic() - self._asked_s > 0.1:
            self._asked_s, self._said = time.monotonic(), bool(self._redis.exists(STOP_KEY))
        return int(self._said)


def saturated(counted: Counted, items: int) -> dict[str, Any]:
    """Rate and busy share over the first ``items``, without the first and last tenth: the loop fills and empties."""
    assert counted.first_s is not None
    done, marks = 0, []
    for at_s, count, busy_s in counted.ended:
        done += count
        if items * 0.1 <= done <= items * 0.9:
            marks.append((at_s, done, busy_s))
    (from_s, from_done, from_busy_s), (to_s, to_done, to_busy_s) = marks[0], marks[-1]
    return {
        "through_queue_per_s": (to_done - from_done) / (to_s - from_s),
        "device_busy_ratio": (to_busy_s - from_busy_s) / (to_s - from_s),
        "tokens_over_asked": counted.tokens / counted.asked_tokens,
        "whole_run_per_s": items / (next_end(counted, items) - counted.first_s),
    }


def next_end(counted: Counted, items: int) -> float:
    """When the ``items``-th text was collected."""
    done = 0
    for at_s, count, _ in counted.ended:
        done += count
        if done >= items:
            return at_s
    raise ValueError(f"only {done} of {items} ended")


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
    if handle.span is not None:
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
    part(measure)
