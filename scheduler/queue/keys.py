"""Names of keys and channels in Redis."""

from __future__ import annotations

#: The keys of one model; ``lua/schema.lua`` documents them.
KEY_NAMES = frozenset(
    {
        *("ready", "jobs", "payloads", "leases", "claims", "held", "reach", "attempts", "flows", "tenants", "state"),
        *("wake", "backlog", "deadlines", "webhook_urls", "webhooks", "webhook_tries", "dead", "dead_letters"),
        *("workers", "info", "refused"),
    }
)
#: Maximum number of requests in one script call: the stack of Lua holds about 8,000 values.
MAX_REQUESTS_PER_CALL = 1000


def queue_key(model: str, name: str) -> str:
    """Return a key of a model; ``name`` is one of `KEY_NAMES`."""
    return f"windrow:{model}:{name}"


def result_key(id: str) -> str:
    """Return the key of a result, which is also its channel, as in Celery."""
    return f"celery-task-meta-{id}"


def events_key(id: str) -> str:
    """Return the key of an event stream; see `windrow.scheduler.queue.events`."""
    return f"windrow:events:{id}"


def events_channel(model: str) -> str:
    """Return the channel of the ids, separated by spaces, of streams with new entries."""
    return f"windrow:{model}:events"


def canceled_channel(model: str) -> str:
    """Return the channel of the ids of requests that were canceled while a worker held them."""
    return f"windrow:{model}:canceled"


def read_announcement(message: bytes) -> tuple[list[str], bytes | None]:
    """Return the ids of finished requests, and the result document if the message carries one."""
    ids, _, document = message.partition(b"\n")
    return ids.decode().split(), document or None


def finished_channel(model: str) -> str:
    """Return the channel of one message per finished batch; see `read_announcement`."""
    return f"windrow:{model}:finished"
