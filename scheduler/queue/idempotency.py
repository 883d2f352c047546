"""Idempotency keys: finds the requests of the first submit with a key."""

from __future__ import annotations

from typing import cast

from redis import Redis

from windrow.errors import IdempotencyConflict


def find_first(redis: Redis, key: str, fingerprint: str) -> list[str] | None:
    """Return the ids of the first submit with ``key``; None if there was none.

    Raises `IdempotencyConflict` if it had another fingerprint.
    """
    seen = cast(bytes | None, redis.get(idempotency_key(key)))
    if seen is None:
        return None
    first, *ids = seen.decode().split(" ")
    if first != fingerprint:
        raise conflict()
    return ids


def idempotency_key(key: str) -> str:
    """Return the Redis key of the fingerprint and the ids of the first submit with ``key``."""
    return f"windrow:idempotency:{key}"


def conflict() -> IdempotencyConflict:
    """Return the error for a key that was used with another call."""
    return IdempotencyConflict("this Idempotency-Key was used before with another body; use a new key")
