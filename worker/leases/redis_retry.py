"""`retry_redis`: repeats a Redis call until Redis is available again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

from windrow.backoff import Backoff

log = logging.getLogger(__name__)
T = TypeVar("T")
BACKOFF = Backoff(first_s=0.1, max_s=2.0)


def retry_redis(
    call: Callable[..., T],
    *args: object,
    give_up: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> T | None:
    """Call ``call(*args)``, again after a pause while Redis fails; None if ``give_up()`` is true after a failure."""
    failures = 0
    while True:
        try:
            return call(*args)
        except RedisError as error:
            failures += 1
            pause_s = BACKOFF.pause_s(failures, random.random())
            log.warning("Redis failed (%s: %s); trying again in %.1f s", type(error).__name__, error, pause_s)
        if give_up():
            return None
        sleep(pause_s)
