"""Checks at startup that a Redis server keeps accepted requests."""

from __future__ import annotations

import logging
import re

from redis import Redis
from redis.exceptions import NoPermissionError

from windrow.errors import InvalidSetting

log = logging.getLogger(__name__)
OLDEST = (6, 2)


def check_server(redis: Redis) -> None:
    """Check the output of ``INFO``; raises `InvalidSetting` with the line to change.

    Refused are versions before 6.2 and every eviction policy but ``noeviction``, even without a memory limit, because a
    limit that is set later would make Redis drop accepted requests. `redis.exceptions.RedisError` passes through.
    """
    try:
        info = redis.info()
    except NoPermissionError:
        raise InvalidSetting("redis_url: this user of Redis may not run INFO; give it +info") from None
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise InvalidSetting(f"redis_url: this Redis has version {version or 'unknown'}; it takes 6.2 or newer")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise InvalidSetting(
            f"redis_url: this Redis has 'maxmemory-policy {policy}' and would drop accepted requests when its memory "
            "is full; put the line 'maxmemory-policy noeviction' into redis.conf, or run "
            "'redis-cli CONFIG SET maxmemory-policy noeviction'"
        )
    if info.get("aof_enabled") == 0:
        log.warning("this Redis has no append-only file and loses its data when it stops; set 'appendonly yes'")


class ServerCheck:
    """`check_server` until it has passed once, for a Redis that may start later than this process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._has_passed = False
        self._has_logged = False

    def require(self) -> None:
        """Raise `InvalidSetting` or `redis.exceptions.RedisError` until the server has passed."""
        if self._has_passed:
            return
        try:
            check_server(self._redis)
        except InvalidSetting as error:
            if not self._has_logged:
                log.critical("%s", error.detail)
            self._has_logged = True
            raise
        self._has_passed = True
