"""What a pool process shows of its life, in memory that its parent can read whatever the process does.

Nothing here is asked for the time: a stage notes the reading of a clock that one thread moves on ten times a second.
That clock counts only time in which the process ran, so that one that was suspended is not taken for a stalled one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, TypeVar

import billiard

T = TypeVar("T")
#: A longer gap between two ticks is time in which the process did not run, in seconds.
LONGEST_TICK_S = 1.0
#: More pool processes than any machine has devices.
MAX_SLOTS = 1024


class ProgressReading(NamedTuple):
    """What one pool process last showed. All numbers are floats, as the shared memory has it."""

    pid: float
    #: Ticks since the resident loop began; 0 while models are being loaded.
    beats: float
    #: How long the longest of the stages at work has been at it, in seconds; an idle loop has none at work.
    busy_s: float
    #: Requests held.
    held: float


_WIDTH = len(ProgressReading._fields)
#: Made before the fork. Each slot is written by one process.
_SHARED = billiard.RawArray("d", _WIDTH * MAX_SLOTS)


def read_slot(slot: int) -> ProgressReading:
    """What the process of ``slot`` last showed; all 0 where there is none."""
    return ProgressReading(*_SHARED[slot * _WIDTH : (slot + 1) * _WIDTH])


def clear_slot(slot: int) -> None:
    """Forget the process of ``slot``."""
    write_slot(slot, ProgressReading(0, 0, 0, 0))


def write_slot(slot: int, reading: ProgressReading) -> None:
    """Show ``reading`` as that of ``slot``."""
    _SHARED[slot * _WIDTH : (slot + 1) * _WIDTH] = reading


class Stage:
    """One thread's place in the loop: entered while it works on something, left while it waits for something to do."""

    __slots__ = ("_vitals", "since_s")

    def __init__(self, vitals: Progress) -> None:
        self._vitals = vitals
        self.since_s: float | None = None

    def __enter__(self) -> None:
        self.since_s = self._vitals.now_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.since_s = None

    def timed(self, steps: Iterable[T]) -> Iterator[T]:
        """``steps``, being in this stage while each is made, and not while the caller has it."""
        making = iter(steps)
        while True:
            with self:
                step = next(making, None)
            if step is None:
                return
            yield step


class Progress:
    """The stages of one resident loop, and the clock they go by."""

    def __init__(
        self, slot: int | None = None, stall_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: Seconds this process was seen running.
        self.now_s = 0.0
        #: A stage that works for longer than this has stalled.
        self.stall_s = stall_s
        self._slot = slot
        self._clock = clock
        self._ticked_s = clock()
        self._beats = 0
        self._stages: list[Stage] = []

    def stage(self) -> Stage:
        """A new stage, for one thread."""
        self._stages.append(Stage(self))
        return self._stages[-1]

    @property
    def busy_s(self) -> float:
        """How long the longest of the stages at work has been at it, in seconds."""
        return max((self.now_s - since_s for one in self._stages if (since_s := one.since_s) is not None), default=0.0)

    @property
    def is_stalled(self) -> bool:
        """Whether a stage works for longer than any should."""
        return self.busy_s > self.stall_s

    def tick(self, held: int = 0) -> None:
        """Move the clock on, and show how things stand."""
        now_s = self._clock()
        self.now_s += min(now_s - self._ticked_s, LONGEST_TICK_S)
        self._ticked_s = now_s
        self._beats += 1
        if self._slot is not None:
            write_slot(self._slot, ProgressReading(os.getpid(), self._beats, self.busy_s, held))
