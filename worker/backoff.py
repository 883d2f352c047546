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


def keep_trying(call: Callable[..., T], *args: object, give_up: Callable[[], bool] = lambda: False) -> T | None:
    """Return ``call(*args)``, repeating it with growing, jittered pauses while Redis fails; None once ``give_up()``."""
    pause_s = FIRST_S
    while True:
        try:
            return call(*args)
        except RedisError as error:
            log.warning("Redis failed (%s: %s); trying again in about %.1f s", type(error).__name__, error, pause_s)
        if give_up():
            return None
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(LONGEST_S, pause_s * 2)
