"""The webhooks of one model that wait to be sent. The work stands in Redis; whoever looks may take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.commands.core import Script

from windrow.scheduler.queue.keys import KEY_NAMES, queue_key
from windrow.scheduler.queue.scripts import load_scripts

#: Hash id -> tries begun; of these scripts alone, so it is no part of the key schema before all of them.
TRIES = "webhook_tries"


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """One ended request whose end is to be told."""

    id: str
    url: str
    #: This one included.
    tries: int
    #: Redis time of the claim, in seconds since the epoch.
    now_s: float


class WebhookQueue:
    """Claims due webhooks and strikes them off; a request gets here through the script that ends it.

    Safe to share between threads. Redis errors pass through as `redis.exceptions.RedisError`.
    """

    def __init__(self, redis: Redis, model: str) -> None:
        self.model = model
        self._redis = redis
        self._keys = [queue_key(model, name) for name in (*KEY_NAMES, TRIES)]
        self._loaded: dict[str, Script] | None = None

    def claim(self, count: int, *, visibility_s: float) -> list[DueWebhook]:
        """Take up to ``count`` that are due, the longest due first; each is due again after ``visibility_s``."""
        now_us, *told = self._run("webhook_claim", count, round(visibility_s * 1e6))
        return [
            DueWebhook(told[at].decode(), told[at + 1].decode(), int(told[at + 2]), int(now_us) / 1e6)
            for at in range(0, len(told), 3)
        ]

    def later(self, id: str, after_s: float, *, tries: int) -> bool:
        """Make it due in ``after_s`` seconds, with so many tries counted; False where it was struck off meanwhile."""
        return bool(self._run("webhook_later", id, round(after_s * 1e6), tries))

    def done(self, id: str) -> bool:
        """Strike it off; False where it was before."""
        return bool(self._run("webhook_done", id))

    def _run(self, script: str, *arguments: Any) -> Any:
        if self._loaded is None:
            self._loaded = load_scripts(self._redis)
        return self._loaded[script](keys=self._keys, args=arguments)
