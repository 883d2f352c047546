"""The cores of one machine on a virtual clock: pieces of passes, of which each lane runs one at a time."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence


class Lanes:
    """Pieces wait in one line for the next lane that is free, as in `worker.engines.cores`.

    A lane that runs alone works a second a second. It loses a share ``crowding`` of that speed while all others run
    too, and in proportion while some of them do.
    """

    def __init__(self, count: int, crowding: float) -> None:
        self._count = count
        #: What a lane loses to each other one that runs.
        self._loss = crowding / (count - 1) if count > 1 else 0.0
        #: Owner and seconds of work of each piece that no lane has begun.
        self._line: deque[tuple[int, float]] = deque()
        #: Those that run: where `_worked_s` will be at their ends, and their owners. All run at one speed.
        self._running: list[tuple[float, int]] = []
        #: What a lane would have worked that always ran, as of `_at_s`.
        self._worked_s = 0.0
        self._at_s = 0.0
        #: When the next piece is over, if none comes meanwhile; infinite where none runs.
        self.over_s = math.inf

    @property
    def pieces(self) -> int:
        """Those that are not over."""
        return len(self._running) + len(self._line)

    def add(self, owner: int, work_s: Sequence[float], now_s: float) -> None:
        """Pieces of ``owner``, each of so many seconds of a lane that runs alone."""
        self._go_on(now_s)
        self._line.extend((owner, seconds) for seconds in work_s)
        self._begin()

    def end(self, now_s: float) -> list[int]:
        """The owners of the pieces that are over by now, once for each piece."""
        self._go_on(now_s)
        ended = []
        while self._running and self._running[0][0] <= self._worked_s:
            ended.append(heapq.heappop(self._running)[1])
        self._begin()
        return ended

    def _go_on(self, now_s: float) -> None:
        if self._running:
            # To the very end of a piece, and not a rounding before it.
            is_over, worked_s = now_s >= self.over_s, (now_s - self._at_s) * self._speed
            self._worked_s = self._running[0][0] if is_over else self._worked_s + worked_s
        self._at_s = now_s

    def _begin(self) -> None:
        running = self._running
        while self._line and len(running) < self._count:
            owner, seconds = self._line.popleft()
            heapq.heappush(running, (self._worked_s + seconds, owner))
        self.over_s = self._at_s + (running[0][0] - self._worked_s) / self._speed if running else math.inf

    @property
    def _speed(self) -> float:
        return 1.0 - self._loss * (len(self._running) - 1)
