"""The Lua scripts. Redis gets each once and runs it by its hash.

A script is assembled from ``lua/schema.lua``, the files of ``lua/lib`` that its header names after ``Uses:``, and its
own file. Its keys are those that these files name after ``KEYS:``; lines in front assign them to names in capitals.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import ResponseError

#: Scripts that a Redis without free memory need not run: those that read, and the one that accepts more.
REFUSED_WHEN_FULL = frozenset({"submit", "find_overdue", "claim_times"})
NAMES = REFUSED_WHEN_FULL | {
    *("claim", "renew", "append_events", "finish", "publish_results", "release", "cancel", "reap", "heartbeat"),
    *("webhook_claim", "webhook_postpone", "webhook_done"),
}
HEADER = re.compile(r"^-- (KEYS|Uses): (.*)$", re.MULTILINE)


class Source(NamedTuple):
    """An assembled script."""

    #: Names of its keys, in the order in which it receives them; see `windrow.scheduler.queue.keys`.
    keys: tuple[str, ...]
    code: str


@cache
def source(name: str) -> Source:
    """Assemble a script, without comments and indentation, because some scripts are sent often."""
    parts = {"schema": _read("schema")}
    _add_part(name, _read(name), parts)
    keys = tuple(dict.fromkeys(key for text in parts.values() for key in _header(text, "KEYS")))
    assignments = [f"local {key.upper()} = KEYS[{number}]" for number, key in enumerate(keys, 1)]
    lines = [line.strip() for text in parts.values() for line in text.splitlines()]
    code = [line for line in lines if line and not line.startswith("--")]
    return Source(keys, "\n".join([*assignments, f"local EXTRA = {len(keys)}", *code]))


def load_scripts(redis: Redis) -> dict[str, Script]:
    """Bind every script to ``redis``; from Redis 7.0 on, flag those that a full Redis runs."""
    flags = "#!lua flags=allow-oom\n" if _major_version(redis) >= 7 else ""
    return {
        name: redis.register_script(("" if name in REFUSED_WHEN_FULL else flags) + source(name).code) for name in NAMES
    }


def _read(name: str) -> str:
    return (files("windrow.scheduler.queue") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _header(text: str, field: str) -> list[str]:
    return [word for name, words in HEADER.findall(text) if name == field for word in words.split()]


def _add_part(name: str, text: str, parts: dict[str, str]) -> None:
    """Add the text of a file after those of the files that it uses."""
    for used in _header(text, "Uses"):
        if used not in parts:
            _add_part(used, _read(f"lib/{used}"), parts)
    parts[name] = text


def _major_version(redis: Redis) -> int:
    try:
        server: Any = redis.info("server")
    except ResponseError:  # an emulation without INFO
        return 0
    return int(str(server.get("redis_version", "0")).split(".")[0])
