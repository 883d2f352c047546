"""Load failures: which models a worker could not load, and why.

One hash a model, ``windrow:<model>:failures``: worker -> ``{"reason": ..., "told_us": ...}``. A worker repeats its
report as long as it runs, and the key expires after the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
from redis import Redis

from windrow.scheduler.queue.keys import queue_key

#: A failure that is not reported again for this long is forgotten, in seconds.
FORGET_AFTER_S = 60.0
MAX_REASON_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """The report of one worker about a model that it could not load."""

    reason: str
    #: Redis time of the last report, in seconds since the epoch.
    told_s: float


def report_load_failure(redis: Redis, model: str, worker: str, reason: str) -> None:
    """Store why ``worker`` could not load ``model``."""
    key, now_s = queue_key(model, "failures"), redis_now_s(redis)
    stale = [name for name, failure in _read(redis, model).items() if failure.told_s < now_s - FORGET_AFTER_S]
    pipe = redis.pipeline()
    if stale:
        pipe.hdel(key, *stale)
    pipe.hset(key, worker, orjson.dumps({"reason": reason[:MAX_REASON_CHARACTERS], "told_us": round(now_s * 1e6)}))
    pipe.expire(key, round(FORGET_AFTER_S))
    pipe.execute()


def read_failures(redis: Redis, model: str) -> dict[str, LoadFailure]:
    """Return the recent failures to load ``model``, by worker."""
    found = _read(redis, model)
    oldest_s = redis_now_s(redis) - FORGET_AFTER_S if found else 0.0
    return {worker: failure for worker, failure in sorted(found.items()) if failure.told_s >= oldest_s}


def read_reasons(redis: Redis, model: str) -> dict[str, str]:
    """Return the reasons of recent failures to load ``model``, by worker."""
    return {worker: failure.reason for worker, failure in read_failures(redis, model).items()}


def redis_now_s(redis: Redis) -> float:
    """Return the Redis time, in seconds since the epoch."""
    seconds, micros = redis.time()
    return seconds + micros / 1e6


def _read(redis: Redis, model: str) -> Mapping[str, LoadFailure]:
    found = cast(dict[bytes, bytes], redis.hgetall(queue_key(model, "failures")))
    reports: dict[str, dict[str, Any]] = {worker.decode(): orjson.loads(text) for worker, text in found.items()}
    return {worker: LoadFailure(report["reason"], report["told_us"] / 1e6) for worker, report in reports.items()}
