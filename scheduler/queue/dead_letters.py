"""Dead letters: requests that used up their attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from redis import Redis

from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL, queue_key


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that used up its attempts, with everything needed to submit it again."""

    id: str
    tenant: str
    priority: str
    cost_tokens: int
    #: Redis times of the submit and of the last failure, in seconds since the epoch.
    created_s: float
    died_s: float
    #: ``{"code", "detail"}``
    error: Mapping[str, str]
    #: JSON object ``{"model", "input", "parameters"}``, encoded.
    payload: bytes

    def call(self) -> dict[str, Any]:
        """Return the decoded payload: ``model``, ``input``, ``parameters``."""
        call: dict[str, Any] = orjson.loads(self.payload)
        return call


class DeadLetters:
    """The dead letters of one model. Redis errors pass through as `redis.exceptions.RedisError`."""

    def __init__(self, redis: Redis, model: str) -> None:
        self.model = model
        self._redis = redis
        self._times = queue_key(model, "dead")
        self._letters = queue_key(model, "dead_letters")

    def newest(self, limit: int = MAX_REQUESTS_PER_CALL) -> list[DeadLetter]:
        """Return up to ``limit`` dead letters, newest first."""
        ids = cast(list[bytes], self._redis.zrange(self._times, 0, limit - 1, desc=True))
        return self.find([id.decode() for id in ids])

    def find(self, ids: Sequence[str]) -> list[DeadLetter]:
        """Return the dead letters of those ids; unknown ids are left out."""
        if not ids:
            return []
        found = cast(list[bytes | None], self._redis.hmget(self._letters, list(ids)))
        return [parse_dead_letter(letter) for letter in found if letter is not None]

    def drop(self, ids: Sequence[str]) -> int:
        """Delete dead letters, and return how many existed."""
        if not ids:
            return 0
        pipe = self._redis.pipeline()
        pipe.zrem(self._times, *ids)
        pipe.hdel(self._letters, *ids)
        return int(pipe.execute()[0])


def parse_dead_letter(letter: bytes) -> DeadLetter:
    """Read the JSON that reap.lua writes."""
    fields = orjson.loads(letter)
    tenant, _, priority = fields["flow"].rpartition(":")
    return DeadLetter(
        id=fields["id"], tenant=tenant, priority=priority, cost_tokens=fields["cost"],
        created_s=fields["created_us"] / 1e6, died_s=fields["died_us"] / 1e6, error=fields["error"],
        payload=orjson.dumps(fields["call"]),
    )  # fmt: skip
