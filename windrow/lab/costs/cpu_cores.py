"""The cores of one machine on a virtual clock; each runs one piece of a batch at a time."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence


class CpuCores:
    """Pieces wait for the next free core in one queue, as in `windrow.worker.engines.device.cores`.

    Chores run beside them and start as soon as they arrive. All running pieces and chores get an equal share of the
    cores, at most one core each.
    """

    def __init__(self, count: int, chores_at_s: Sequence[float] = (), chore_s: float = 0.0) -> None:
        """Chores of ``chore_s`` seconds of one core arrive at the ascending times ``chores_at_s``."""
        self._count = count
        self._chores_at_s, self._chore_s = (chores_at_s if chore_s else ()), chore_s
        #: Position of the next chore.
        self._next_chore = 0
        #: Owner and seconds of work of each piece that no core has begun.
        self._queue: deque[tuple[int, float]] = deque()
        #: Running pieces: the value of `_worked_s` at which each ends, and its owner.
        self._running: list[tuple[float, int]] = []
        #: The same for chores, which all take equally long and so end in their order.
        self._chores: deque[float] = deque()
        #: Seconds of work that a piece running since the start would have done by `_at_s`: all run at the same speed.
        self._worked_s = 0.0
        self._at_s = 0.0
        #: When the next piece ends if none is added before; infinite if none runs.
        self.ends_s = math.inf

    @property
    def pieces(self) -> int:
        """Number of pieces that have not ended."""
        return len(self._running) + len(self._queue)

    def add(self, owner: int, work_s: Sequence[float], now_s: float) -> None:
        """Add pieces of ``owner``; ``work_s`` is how long each takes on a core that runs nothing else."""
        self._advance(now_s)
        self._queue.extend((owner, seconds) for seconds in work_s)
        self._begin()

    def end(self, now_s: float) -> list[int]:
        """Return the owners of the pieces that have ended by ``now_s``, once for each piece."""
        self._advance(now_s)
        ended = []
        while self._running and self._running[0][0] <= self._worked_s:
            ended.append(heapq.heappop(self._running)[1])
        self._begin()
        return ended

    def _advance(self, now_s: float) -> None:
        has_ended = now_s >= self.ends_s
        _, worked_s, self._chores, self._next_chore = self._look_ahead(now_s, math.inf)
        # Exactly to the end of a piece, without a rounding error.
        self._worked_s = self._running[0][0] if has_ended and self._running else worked_s
        self._at_s = now_s

    def _begin(self) -> None:
        running = self._running
        while self._queue and len(running) < self._count:
            owner, seconds = self._queue.popleft()
            heapq.heappush(running, (self._worked_s + seconds, owner))
        self.ends_s = self._look_ahead(math.inf, running[0][0])[0] if running else math.inf

    def _look_ahead(self, until_s: float, until_worked_s: float) -> tuple[float, float, deque[float], int]:
        """Compute the state at ``until_s`` or when ``until_worked_s`` is reached, whichever comes first.

        Returns the time, the value of `_worked_s`, the running chores and the position of the next chore.
        """
        at_s, worked_s, next_chore, pieces = self._at_s, self._worked_s, self._next_chore, len(self._running)
        chores, arrivals_s = self._chores.copy(), self._chores_at_s
        while True:
            speed = min(1.0, self._count / max(1, pieces + len(chores)))
            next_worked_s = min(until_worked_s, chores[0]) if chores else until_worked_s
            next_s = min(until_s, at_s + (next_worked_s - worked_s) / speed)
            if next_chore < len(arrivals_s) and arrivals_s[next_chore] < next_s:
                next_s = max(at_s, arrivals_s[next_chore])
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
