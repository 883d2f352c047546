"""Waiting for a Redis that is away."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_S, LONGEST_S = 0.1, 2.0


def pause_s(failures: int, fraction: float) -> float:
    """How long to wait after so many failures in a row, in seconds: at least half of what doubles each time.

    ``fraction`` in [0, 1] is drawn by the caller: workers that lost the same Redis must not come back in step.
    """
    longest_s = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
    return longest_s * (0.5 + 0.5 * fraction)


def retry_redis(
    call: Callable[..., T],
    *args: object,
    give_up: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> T | None:
    """Return ``call(*args)``, repeating it with growing, jittered pauses while Redis fails; None once ``give_up()``."""
    failures = 0
    while True:
        try:
            return call(*args)
        except RedisError as error:
            failures += 1
            wait_s = pause_s(failures, random.random())
            log.warning("Redis failed (%s: %s); trying again in %.1f s", type(error).__name__, error, wait_s)
        if give_up():
            return None
        sleep(wait_s)
