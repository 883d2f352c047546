"""`Depth`: the size and the speed of a model's queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S
from windrow.scheduler.queue.keys import queue_key


@dataclass(frozen=True, slots=True)
class Depth:
    """The unfinished requests of one model, and the measured speed."""

    waiting: int
    running: int
    #: Workers with a recent heartbeat.
    workers: int
    #: Cost of all unfinished requests, in tokens.
    cost_tokens: int
    #: Mean device time per token, in seconds; None before the first batch.
    token_s: float | None
    #: Payload bytes of all unfinished requests.
    payload_bytes: int
    #: Numbers of requests: submitted, rejected_<limit>, succeeded, failed, canceled, expired, redelivered, late,
    #: dead_letters.
    counts: Mapping[str, int]

    @property
    def wait_s(self) -> float | None:
        """Estimated seconds until all present requests have finished; None before the first batch."""
        if self.token_s is None:
            return None
        return self.cost_tokens * self.token_s / max(1, self.workers)


def read_depth(redis: Redis, model: str) -> Depth:
    """Read the depth in one round trip."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.zcard(queue_key(model, "ready"))
    pipe.hgetall(queue_key(model, "held"))
    pipe.zrange(queue_key(model, "workers"), 0, -1, withscores=True)
    pipe.hgetall(queue_key(model, "state"))
    (seconds, micros), waiting, held, beats, fields = pipe.execute()
    fresh_us = seconds * 1_000_000 + micros - HEARD_WITHIN_S * 1e6
    state: dict[str, Any] = {name.decode(): value for name, value in fields.items()}
    state.pop("vtime", None)
    token_us = state.pop("us_per_token", None)
    return Depth(
        waiting=waiting,
        running=sum(digits.count(b"1") for digits in held.values()),
        workers=sum(beat_us >= fresh_us for _, beat_us in beats),
        cost_tokens=int(state.pop("cost", 0)),
        token_s=None if token_us is None else float(token_us) / 1e6,
        payload_bytes=int(state.pop("bytes", 0)),
        counts={name: int(value) for name, value in state.items()},
    )
