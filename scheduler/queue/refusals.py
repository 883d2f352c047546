"""What submit.lua is told of a tenant's quota, what a refused call is told, and how a Redis says that it is full."""

from __future__ import annotations

import math

from redis.exceptions import OutOfMemoryError, RedisError

from windrow.errors import InvalidInput, QueueFull, QuotaExceeded
from windrow.scheduler.core.admission import Quota

#: What stands in every error of a Redis that has reached its ``maxmemory``.
FULL = "OOM command not allowed"


def is_full(error: RedisError) -> bool:
    """Whether Redis refused for want of memory; within a script, Redis 6.2 wraps the command's error into its own."""
    return isinstance(error, OutOfMemoryError) or FULL in str(error)


def quota_arguments(quota: Quota, count: int) -> list[float]:
    """In-flight, bytes, microseconds a request, burst, for a call of ``count`` requests; 0 for no limit.

    Raises `InvalidInput` for a call that the rate would never allow.
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
    """The error of a call of ``count`` requests that met the limit ``what``, of which ``present`` was there already."""
    model = f"model {model!r}"
    match what:
        case "depth":
            detail = f"{present} requests wait for {model}, {count} more came, and {max_depth} may wait"
            return QueueFull(detail, retry_after_s=retry_s)
        case "bytes":
            detail = f"the requests waiting for {model} would hold more than {max_bytes} bytes"
            return QueueFull(detail, retry_after_s=retry_s)
        case "tenant_in_flight":
            detail = f"{present} of your requests to {model} have not ended, {count} more came, and "
            detail += f"{quota.max_in_flight} may be in flight"
        case "tenant_bytes":
            detail = f"your requests to {model} that have not ended would hold more than {quota.max_bytes} bytes"
        case _:
            detail = f"you may send {quota.requests_per_s:g} requests a second to {model}"
    return QuotaExceeded(detail, retry_after_s=retry_s)
