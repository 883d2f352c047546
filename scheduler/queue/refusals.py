"""Limits at submit: the arguments for submit.lua, and the errors of refused calls."""

from __future__ import annotations

import math

from redis.exceptions import OutOfMemoryError, RedisError

from windrow.errors import InvalidInput, QueueFull, QuotaExceeded
from windrow.scheduler.core.admission import Quota

#: Part of every error of a Redis that has reached its ``maxmemory``.
OUT_OF_MEMORY = "OOM command not allowed"


def is_full(error: RedisError) -> bool:
    """Return whether Redis refused a command or a script because its memory is full."""
    # Inside a script, Redis 6.2 wraps the error of the command into another one.
    return isinstance(error, OutOfMemoryError) or OUT_OF_MEMORY in str(error)


def quota_arguments(quota: Quota, count: int) -> list[float]:
    """Return max_in_flight, max_bytes, microseconds per request and burst of a tenant; 0 for no limit.

    Raises `InvalidInput` for a call of more requests than the burst, which would never be accepted.
    """
    interval_us, burst = 0.0, 0
    if quota.requests_per_s is not None:
        interval_us = 1e6 / quota.requests_per_s
        burst = quota.burst or math.ceil(quota.requests_per_s)
        if count > burst:
            raise InvalidInput(f"{count} requests in one call; your rate allows {burst} at once")
    return [quota.max_in_flight or 0, quota.max_bytes or 0, interval_us, burst]


def refusal(
    what: str, model: str, present: int, count: int, max_depth: int, max_bytes: int, quota: Quota, retry_s: float | None
) -> QueueFull | QuotaExceeded:
    """Return the error of a call of ``count`` requests that exceeds the limit ``what``; ``present`` is in use."""
    model = f"model {model!r}"
    match what:
        case "depth":
            detail = f"{present} requests wait for {model}, {count} more came, and {max_depth} may wait"
            return QueueFull(detail, retry_after_s=retry_s)
        case "bytes":
            detail = f"the requests waiting for {model} would hold more than {max_bytes} bytes"
            return QueueFull(detail, retry_after_s=retry_s)
        case "tenant_in_flight":
            detail = f"{present} of your requests to {model} have not finished, {count} more came, and "
            detail += f"{quota.max_in_flight} may be in flight"
        case "tenant_bytes":
            detail = f"your requests to {model} that have not finished would hold more than {quota.max_bytes} bytes"
        case _:
            detail = f"you may send {quota.requests_per_s:g} requests a second to {model}"
    return QuotaExceeded(detail, retry_after_s=retry_s)
