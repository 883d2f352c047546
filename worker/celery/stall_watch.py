"""Stall detection in the parent process: a pool process without progress is killed, and the pool starts another.

The requests of a killed process are requeued when their leases expire.
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
from windrow.worker.process.stopping import IMMEDIATELY, STOP

log = logging.getLogger(__name__)
CHECK_EVERY_S = 1.0
#: Longest time that one check counts, in seconds. In a longer gap between two checks this process itself was suspended.
MAX_CHECK_GAP_S = 2.0
#: Time that a stalled process has to report itself to `/readyz` before it is killed, in seconds.
REPORT_GRACE_S = 3.0
#: Time that a process has to end after an immediate stop before it is killed, in seconds.
STOP_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Stall:
    """A pool process to kill, and the reason."""

    slot: int
    pid: int
    reason: str


class StallDetector:
    """Compares each slot's progress with its previous progress. Pure: the caller passes time and readings."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._checked_s: float | None = None
        #: Slot -> its last reading, and for how many seconds it has not changed.
        self._unchanged: dict[int, tuple[ProgressReading, float]] = {}
        self._stopping_s = 0.0

    def check(self, now_s: float, readings: Sequence[ProgressReading], stop_level: int = 0) -> list[Stall]:
        """Return the processes to kill. A process that is still loading models (no beat yet) is left out."""
        passed_s = 0.0 if self._checked_s is None else min(now_s - self._checked_s, MAX_CHECK_GAP_S)
        self._checked_s = now_s
        self._stopping_s = self._stopping_s + passed_s if stop_level >= IMMEDIATELY else 0.0
        found = [self._judge(slot, reading, passed_s) for slot, reading in enumerate(readings)]
        return [stall for stall in found if stall is not None]

    def _judge(self, slot: int, reading: ProgressReading, passed_s: float) -> Stall | None:
        before, unchanged_s = self._unchanged.get(slot, (reading, 0.0))
        is_same = (before.pid, before.beats) == (reading.pid, reading.beats)
        unchanged_s = unchanged_s + passed_s if is_same and reading.beats else 0.0
        self._unchanged[slot] = (reading, unchanged_s)
        reason = None
        if reading.pid and self._stopping_s > STOP_GRACE_S:
            reason = f"was told to stop immediately and still runs after {self._stopping_s:.0f} s"
        elif unchanged_s > self._stall_s:
            reason = f"has made no progress for {unchanged_s:.0f} s"
        elif reading.busy_s > self._stall_s + REPORT_GRACE_S:
            reason = f"has been running one batch for {reading.busy_s:.0f} s"
        return Stall(slot, int(reading.pid), reason) if reason else None


def watch_slots(count: int, stall_s: float, pool_pids: Callable[[], Sequence[int]]) -> None:
    """Check every second, forever. Runs in a thread, because the event loop blocks while Redis is unreachable."""
    detector = StallDetector(stall_s)
    while True:
        time.sleep(CHECK_EVERY_S)
        for stall in detector.check(time.monotonic(), [read_slot(slot) for slot in range(count)], STOP.value):
            if stall.pid in pool_pids():
                log.error("slot %d (process %d) %s: killing it", stall.slot, stall.pid, stall.reason)
                with suppress(ProcessLookupError):
                    os.kill(stall.pid, signal.SIGKILL)
            clear_slot(stall.slot)


def start_watch(count: int, stall_s: float, pool_pids: Callable[[], Sequence[int]]) -> None:
    """Run `watch_slots` in a thread."""
    threading.Thread(target=watch_slots, args=(count, stall_s, pool_pids), name="watch", daemon=True).start()
