"""Progress of a pool process, in shared memory that the parent can read even if the process hangs.

Stages do not call the system clock. They read a clock that one thread advances ten times per second, and that counts
only time in which the process ran, so that a suspended process does not look stalled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, TypeVar

import billiard

T = TypeVar("T")
#: Longest time that one tick counts, in seconds. In a longer gap between two ticks the process was suspended.
MAX_TICK_GAP_S = 1.0
#: Most pool processes per worker; more than any machine has devices.
MAX_SLOTS = 1024


class ProgressReading(NamedTuple):
    """The last progress of one pool process. All fields are floats, because the shared memory is an array of floats."""

    pid: float
    #: Ticks since the batch loop started; 0 while models load.
    beats: float
    #: Seconds since the longest-running stage began its current work; 0 for an idle loop.
    busy_s: float
    #: Requests that the process has claimed and not finished.
    held: float


_WIDTH = len(ProgressReading._fields)
#: Allocated before the fork. Each slot is written by one process.
_SHARED = billiard.RawArray("d", _WIDTH * MAX_SLOTS)


def read_slot(slot: int) -> ProgressReading:
    """Return the last progress of the process in ``slot``; all 0 if there is none."""
    return ProgressReading(*_SHARED[slot * _WIDTH : (slot + 1) * _WIDTH])


def clear_slot(slot: int) -> None:
    """Reset ``slot`` to all 0."""
    write_slot(slot, ProgressReading(0, 0, 0, 0))


def write_slot(slot: int, reading: ProgressReading) -> None:
    """Store ``reading`` as the progress of ``slot``."""
    _SHARED[slot * _WIDTH : (slot + 1) * _WIDTH] = reading


class Stage:
    """One thread of the loop; a context manager that is entered while the thread works and left while it waits."""

    __slots__ = ("_progress", "since_s")

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.since_s: float | None = None

    def __enter__(self) -> None:
        self.since_s = self._progress.now_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.since_s = None

    def timed(self, steps: Iterable[T]) -> Iterator[T]:
        """Yield from ``steps``; the stage is entered while an item is produced, and left while the caller uses it."""
        iterator = iter(steps)
        while True:
            with self:
                step = next(iterator, None)
            if step is None:
                return
            yield step


class Progress:
    """The stages of one batch loop, and their clock."""

    def __init__(
        self, slot: int | None = None, stall_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: Seconds that this process has been running.
        self.now_s = 0.0
        #: A stage whose current work takes longer than this has stalled.
        self.stall_s = stall_s
        self._slot = slot
        self._clock = clock
        self._ticked_s = clock()
        self._beats = 0
        self._stages: list[Stage] = []

    def stage(self) -> Stage:
        """Add a stage, for one thread."""
        self._stages.append(Stage(self))
        return self._stages[-1]

    @property
    def busy_s(self) -> float:
        """Seconds since the longest-running stage began its current work; 0 if none works."""
        return max(
            (self.now_s - since_s for stage in self._stages if (since_s := stage.since_s) is not None), default=0.0
        )

    @property
    def is_stalled(self) -> bool:
        """Whether a stage has stalled."""
        return self.busy_s > self.stall_s

    def tick(self, held: int = 0) -> None:
        """Advance the clock and store the progress in the shared memory."""
        now_s = self._clock()
        self.now_s += min(now_s - self._ticked_s, MAX_TICK_GAP_S)
        self._ticked_s = now_s
        self._beats += 1
        if self._slot is not None:
            write_slot(self._slot, ProgressReading(os.getpid(), self._beats, self.busy_s, held))
