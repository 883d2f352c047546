"""What an idempotency key was used for, asked without submitting anything."""

from __future__ import annotations

from typing import cast

from redis import Redis

from windrow.errors import IdempotencyConflict


def find_first(redis: Redis, key: str, fingerprint: str) -> list[str] | None:
    """The ids of the first submit with ``key``; None where there was none.

    Raises `IdempotencyConflict` where it had another fingerprint.
    """
    seen = cast(bytes | None, redis.get(idempotency_key(key)))
    if seen is None:
        return None
    first, *ids = seen.decode().split(" ")
    if first != fingerprint:
        raise conflict()
    return ids


def idempotency_key(key: str) -> str:
    """Where Redis keeps the fingerprint and the ids of the first submit with ``key``."""
    return f"windrow:idempotency:{key}"


def conflict() -> IdempotencyConflict:
    """The error of a key that comes with another call."""
    return IdempotencyConflict("this Idempotency-Key was used before with another body; use a new key")
