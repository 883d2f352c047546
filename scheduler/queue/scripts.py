"""The Lua scripts, read once; each is sent by hash and loaded again where Redis has forgotten it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import ResponseError

#: Scripts that a Redis out of memory must still run: everything but taking in more.
ALLOWED_WHEN_FULL = frozenset(
    {
        *("claim", "renew", "tell", "finish", "stored", "release", "cancel", "reap", "heartbeat"),
        *("webhook_claim", "webhook_later", "webhook_done"),
    }
)
NAMES = frozenset({"submit", "overdue", "holders"}) | ALLOWED_WHEN_FULL


@cache
def source(name: str) -> str:
    """The code of one script with the key schema before it, bare of what is there for readers: some are sent often."""
    folder = files("windrow.scheduler.queue") / "lua"
    lines = [
        line.strip()
        for part in ("schema", name)
        for line in (folder / f"{part}.lua").read_text(encoding="utf-8").splitlines()
    ]
    return "\n".join(line for line in lines if line and not line.startswith("--"))


def load_scripts(redis: Redis) -> dict[str, Script]:
    """Bind every script to ``redis``; from Redis 7.0 on, those of `ALLOWED_WHEN_FULL` say so to the server."""
    flags = "#!lua flags=allow-oom\n" if _major_version(redis) >= 7 else ""
    return {name: redis.register_script((flags if name in ALLOWED_WHEN_FULL else "") + source(name)) for name in NAMES}


def _major_version(redis: Redis) -> int:
    try:
        server: Any = redis.info("server")
    except ResponseError:  # an emulation that has no INFO
        return 0
    return int(str(server.get("redis_version", "0")).split(".")[0])
