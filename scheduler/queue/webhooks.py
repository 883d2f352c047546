"""The webhooks of one model that wait for delivery. They are kept in Redis, so any worker can send them."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from windrow.scheduler.queue.script_calls import ScriptCalls


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """A webhook to deliver: one finished request."""

    id: str
    url: str
    #: Number of deliveries begun, this one included.
    tries: int
    #: Redis time of the claim, in seconds since the epoch.
    now_s: float


class WebhookQueue:
    """Claims webhooks that are due, and deletes those that were delivered.

    The script that finishes a request adds its webhook. Safe to share between threads. Redis errors pass through as
    `redis.exceptions.RedisError`.
    """

    def __init__(self, redis: Redis, model: str) -> None:
        self.model = model
        self._calls = ScriptCalls(redis, model)

    def claim(self, count: int, *, visibility_s: float) -> list[DueWebhook]:
        """Take up to ``count`` due webhooks, oldest first; each is due again after ``visibility_s`` seconds."""
        now_us, *reply = self._calls.run("webhook_claim", [count, round(visibility_s * 1e6)])
        return [
            DueWebhook(reply[at].decode(), reply[at + 1].decode(), int(reply[at + 2]), int(now_us) / 1e6)
            for at in range(0, len(reply), 3)
        ]

    def postpone(self, id: str, after_s: float, *, tries: int) -> bool:
        """Make a webhook due in ``after_s`` seconds, with ``tries`` counted; False if it was deleted meanwhile."""
        return bool(self._calls.run("webhook_postpone", [id, round(after_s * 1e6), tries]))

    def done(self, id: str) -> bool:
        """Delete a webhook; False if it was deleted before."""
        return bool(self._calls.run("webhook_done", [id]))
