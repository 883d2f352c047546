"""What Redis' clock says, without asking it."""

from __future__ import annotations

import time

#: A clock that is off by more than this after a reply was set, in seconds.
SLOWEST_REPLY_S = 0.5
#: By how much two clocks part, in seconds a second.
MOST_DRIFT = 0.001


class RedisClock:
    """Learns from replies how far Redis' clock is from `time.monotonic`. Threads may share it."""

    def __init__(self) -> None:
        #: Redis time minus `time.monotonic`, as of the last reply; minus infinity before the first.
        self.offset_s = float("-inf")
        self._offset_at_s = 0.0

    def now_s(self) -> float:
        """Redis time, in seconds since the epoch."""
        return time.monotonic() + self.offset_s

    @property
    def is_set(self) -> bool:
        """Whether any reply said what time it is."""
        return self.offset_s > float("-inf")

    def learn(self, redis_s: float) -> None:
        """Take in the time that a reply said.

        It was Redis' time a moment ago, so the latest of what replies said is the nearest. An older one is held less
        and less, because clocks drift, and not at all once Redis' clock was set back.
        """
        now_s = time.monotonic()
        seen_s = redis_s - now_s
        older_s = self.offset_s - MOST_DRIFT * (now_s - self._offset_at_s)
        self.offset_s = max(seen_s, older_s) if older_s < seen_s + SLOWEST_REPLY_S else seen_s
        self._offset_at_s = now_s
