"""The cores of one machine on a virtual clock: pieces of passes, of which each lane runs one at a time."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence


class CpuCores:
    """Pieces wait in one line for the next lane that is free, as in `windrow.worker.engines.device.cores`.

    Beside them run chores, begun whenever one comes: all that runs has equal shares of the lanes, and no more than one.
    """

    def __init__(self, count: int, chores_at_s: Sequence[float] = (), chore_s: float = 0.0) -> None:
        """Chores of ``chore_s`` on a lane come at the rising times ``chores_at_s``."""
        self._count = count
        self._chores_at_s, self._chore_s = (chores_at_s if chore_s else ()), chore_s
        #: The next of them.
        self._next = 0
        #: Owner and seconds of work of each piece that no lane has begun.
        self._line: deque[tuple[int, float]] = deque()
        #: Those that run: where `_worked_s` will be at their ends, and their owners.
        self._running: list[tuple[float, int]] = []
        #: The same of chores, which take equally long and so end in their order.
        self._chores: deque[float] = deque()
        #: What everything that runs has worked, had it run always, as of `_at_s`: all run at one speed.
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
        is_over = now_s >= self.over_s
        _, worked_s, self._chores, self._next = self._look_ahead(now_s, math.inf)
        # To the very end of a piece, and not a rounding before it.
        self._worked_s = self._running[0][0] if is_over and self._running else worked_s
        self._at_s = now_s

    def _begin(self) -> None:
        running = self._running
        while self._line and len(running) < self._count:
            owner, seconds = self._line.popleft()
            heapq.heappush(running, (self._worked_s + seconds, owner))
        self.over_s = self._look_ahead(math.inf, running[0][0])[0] if running else math.inf

    def _look_ahead(self, until_s: float, until_worked_s: float) -> tuple[float, float, deque[float], int]:
        """At ``until_s``, or where so much was worked, whichever is first: the time, what was worked, the chores that
        run, and the next one.
        """
        at_s, worked_s, next_chore, pieces = self._at_s, self._worked_s, self._next, len(self._running)
        chores, coming = self._chores.copy(), self._chores_at_s
        while True:
            speed = min(1.0, self._count / max(1, pieces + len(chores)))
            next_worked_s = min(until_worked_s, chores[0]) if chores else until_worked_s
            next_s = min(until_s, at_s + (next_worked_s - worked_s) / speed)
            if next_chore < len(coming) and coming[next_chore] < next_s:
                next_s = max(at_s, coming[next_chore])
                worked_s += (next_s - at_s) * speed
                chores.append(worked_s + self._chore_s)
                next_chore += 1
            elif next_s >= until_s:
                return until_s, worked_s + (until_s - at_s) * speed, chores, next_chore
            elif chores and chores[0] <= next_worked_s:
                worked_s = chores.popleft()
                if worked_s >= until_worked_s:
                    return next_s, worked_s, chores, next_chore
            else:
                return next_s, until_worked_s, chores, next_chore
            at_s = next_s
