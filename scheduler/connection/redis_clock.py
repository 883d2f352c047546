"""`RedisClock`: the Redis time without a round trip."""

from __future__ import annotations

import time

#: A larger difference than this means that the clock of Redis was set back, in seconds.
SLOWEST_REPLY_S = 0.5
#: Maximum drift between two clocks, in seconds per second.
MAX_DRIFT = 0.001


class RedisClock:
    """Estimates from replies the offset between the Redis time and `time.monotonic`. Threads may share it."""

    def __init__(self) -> None:
        #: Redis time minus `time.monotonic`; minus infinity before the first reply.
        self.offset_s = float("-inf")
        self._offset_at_s = 0.0

    def now_s(self) -> float:
        """Return the Redis time, in seconds since the epoch."""
        return time.monotonic() + self.offset_s

    @property
    def is_set(self) -> bool:
        """Whether any reply with a time has arrived."""
        return self.offset_s > float("-inf")

    def learn(self, redis_s: float) -> None:
        """Update the offset with the time in a reply.

        A reply is late by its time on the network, so the largest offset is the most accurate. Older offsets lose
        weight, because clocks drift, and are dropped if the clock of Redis was set back.
        """
        now_s = time.monotonic()
        reply_offset_s = redis_s - now_s
        older_offset_s = self.offset_s - MAX_DRIFT * (now_s - self._offset_at_s)
        self.offset_s = (
            max(reply_offset_s, older_offset_s) if older_offset_s < reply_offset_s + SLOWEST_REPLY_S else reply_offset_s
        )
        self._offset_at_s = now_s
