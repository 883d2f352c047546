"""Models that a worker could not load, told in Redis beside the workers that serve them.

One hash a model, ``windrow:<model>:failures``: worker -> ``{"reason": ..., "told_us": ...}``. A worker tells it again
as long as it runs, and the key goes once all are silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
from redis import Redis

from windrow.scheduler.queue.keys import queue_key

#: What nobody told again for so long is forgotten, in seconds.
FORGET_AFTER_S = 60.0
LONGEST_REASON = 1000


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """What one worker said of a model that it does not serve."""

    reason: str
    #: Redis time, in seconds since the epoch.
    told_s: float


def report_load_failure(redis: Redis, model: str, worker: str, reason: str) -> None:
    """Say that ``worker`` could not load ``model``, and why."""
    key, now_s = queue_key(model, "failures"), redis_now_s(redis)
    stale = [name for name, one in _read(redis, model).items() if one.told_s < now_s - FORGET_AFTER_S]
    pipe = redis.pipeline()
    if stale:
        pipe.hdel(key, *stale)
    pipe.hset(key, worker, orjson.dumps({"reason": reason[:LONGEST_REASON], "told_us": round(now_s * 1e6)}))
    pipe.expire(key, round(FORGET_AFTER_S))
    pipe.execute()


def read_failures(redis: Redis, model: str) -> dict[str, LoadFailure]:
    """Workers that said lately that they could not load ``model``, by name."""
    found = _read(redis, model)
    oldest_s = redis_now_s(redis) - FORGET_AFTER_S if found else 0.0
    return {worker: one for worker, one in sorted(found.items()) if one.told_s >= oldest_s}


def read_reasons(redis: Redis, model: str) -> dict[str, str]:
    """The same, but for when: worker -> why it could not load ``model``."""
    return {worker: one.reason for worker, one in read_failures(redis, model).items()}


def redis_now_s(redis: Redis) -> float:
    """Redis time, in seconds since the epoch."""
    seconds, micros = redis.time()
    return seconds + micros / 1e6


def _read(redis: Redis, model: str) -> Mapping[str, LoadFailure]:
    found = cast(dict[bytes, bytes], redis.hgetall(queue_key(model, "failures")))
    said: dict[str, dict[str, Any]] = {worker.decode(): orjson.loads(one) for worker, one in found.items()}
    return {worker: LoadFailure(one["reason"], one["told_us"] / 1e6) for worker, one in said.items()}
