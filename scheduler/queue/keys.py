"""The names of everything that is kept in Redis; what each one holds stands in lua/schema.lua."""

from __future__ import annotations

#: In the order of the key schema.
KEY_NAMES = (
    "ready", "jobs", "leases", "claims", "held", "attempts", "flows", "tenants", "state", "wake", "deadlines",
    "webhook_urls", "webhooks", "dead", "dead_letters", "workers", "info", "backlog",
    "payloads", "refused", "reach",
)  # fmt: skip
#: Requests in one script call; Lua's stack holds about 8,000 values.
MAX_REQUESTS_PER_CALL = 1000


def queue_key(model: str, name: str) -> str:
    """One of a model's keys, by its name in `KEY_NAMES`."""
    return f"windrow:{model}:{name}"


def result_key(id: str) -> str:
    """Key and channel of a result: Celery's own."""
    return f"celery-task-meta-{id}"


def events_key(id: str) -> str:
    """The event stream of a request that somebody follows; see `windrow.scheduler.queue.events`."""
    return f"windrow:events:{id}"


def events_channel(model: str) -> str:
    """Channel that gets the ids, separated by spaces, of streams that have something new."""
    return f"windrow:{model}:events"


def canceled_channel(model: str) -> str:
    """Channel that gets the id of a request that was canceled while a worker held it."""
    return f"windrow:{model}:canceled"


def read_announcement(message: bytes) -> tuple[list[str], bytes | None]:
    """The ids that ended, and the result document where it is one that came with its document."""
    ids, _, document = message.partition(b"\n")
    return ids.decode().split(), document or None


def finished_channel(model: str) -> str:
    """Channel that gets one message per batch; see `read_announcement`."""
    return f"windrow:{model}:finished"
