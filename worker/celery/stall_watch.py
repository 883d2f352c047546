"""The parent's eye on its pool processes: one that makes no progress is killed, and the pool starts another.

Its requests come back by their leases, as those of any process that died.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from windrow.worker.process.progress import ProgressReading, clear_slot, read_slot
from windrow.worker.process.stopping import AT_ONCE, STOP

log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
#: A longer gap between two looks is time in which this process did not run itself, in seconds.
LONGEST_LOOK_S = 2.0
#: A stalled process has so long to tell `/readyz` itself before it is killed, in seconds.
TELL_S = 3.0
#: Asked to leave at once, a process that is still there after so long is killed, in seconds.
LEAVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Stall:
    """A process that has to go, and why."""

    slot: int
    pid: int
    reason: str


class Watch:
    """Compares what each slot shows with what it showed before. Pure: time and readings come from the caller."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._looked_s: float | None = None
        #: slot -> what it showed last, and for how many seconds it has shown the same.
        self._quiet: dict[int, tuple[ProgressReading, float]] = {}
        self._leaving_s = 0.0

    def look(self, now_s: float, readings: Sequence[ProgressReading], stop_level: int = 0) -> list[Stall]:
        """Return what has to be killed. A process that loads its models (no beat yet) is left in peace."""
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, LONGEST_LOOK_S)
        self._looked_s = now_s
        self._leaving_s = self._leaving_s + passed_s if stop_level >= AT_ONCE else 0.0
        found = [self._judge(slot, reading, passed_s) for slot, reading in enumerate(readings)]
        return [stall for stall in found if stall is not None]

    def _judge(self, slot: int, reading: ProgressReading, passed_s: float) -> Stall | None:
        before, quiet_s = self._quiet.get(slot, (reading, 0.0))
        is_same = (before.pid, before.beats) == (reading.pid, reading.beats)
        quiet_s = quiet_s + passed_s if is_same and reading.beats else 0.0
        self._quiet[slot] = (reading, quiet_s)
        reason = None
        if reading.pid and self._leaving_s > LEAVE_S:
            reason = f"was asked to leave at once and is still there after {self._leaving_s:.0f} s"
        elif quiet_s > self._stall_s:
            reason = f"has shown no sign of life for {quiet_s:.0f} s"
        elif reading.busy_s > self._stall_s + TELL_S:
            reason = f"has been at one pass for {reading.busy_s:.0f} s"
        return Stall(slot, int(reading.pid), reason) if reason else None


def watch_slots(count: int, stall_s: float, pool_pids: Callable[[], Sequence[int]]) -> None:
    """Look every second, for ever: a thread, because the event loop stands still while Redis is away."""
    watch = Watch(stall_s)
    while True:
        time.sleep(LOOK_EVERY_S)
        for stall in watch.look(time.monotonic(), [read_slot(slot) for slot in range(count)], STOP.value):
            if stall.pid in pool_pids():
                log.error("slot %d (process %d) %s: killing it", stall.slot, stall.pid, stall.reason)
                with suppress(ProcessLookupError):
                    os.kill(stall.pid, signal.SIGKILL)
            clear_slot(stall.slot)


def start_watch(count: int, stall_s: float, pool_pids: Callable[[], Sequence[int]]) -> None:
    """Start `watch_slots` in a thread of its own."""
    threading.Thread(target=watch_slots, args=(count, stall_s, pool_pids), name="watch", daemon=True).start()
