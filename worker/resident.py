"""The resident loop: one per pool process and device, from the first claim to the last finish.

Three stages run side by side and hand over through bounded buffers, so that the device waits for nobody: claiming and
tokenising fill the next row, the device runs the present one, and results of the one before are written.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from scheduler.queue import Ending
from worker.backoff import keep_trying
from worker.keeper import Keeper
from worker.lane import Lane
from worker.passes import Pass, run_row
from worker.rows import Rows
from worker.stages import start_stage

#: Passes that wait behind the one that is being finished: enough to keep a device busy, and few enough for the next
#: row to grow meanwhile.
STARTED_AHEAD = 1
#: How long a stopping worker goes on trying to store results while Redis is away, in seconds.
DRAIN_S = 10.0


class Resident:
    """Runs until ``stopping()`` says so, then ends what it holds."""

    def __init__(self, lanes: dict[str, Lane], stopping: Callable[[], bool]) -> None:
        self.lanes = lanes
        self._stopping = stopping
        self._rows = Rows({model: lane.window for model, lane in lanes.items()})
        self._started: queue.Queue[tuple[Lane, Pass, str] | None] = queue.Queue(STARTED_AHEAD)
        self._stopped_s: float | None = None

    def run(self) -> None:
        """Claim, prepare, plan, forward, finish; return once stopped and nothing is held."""
        claimers = [start_stage(self._claim, lane) for lane in self.lanes.values()]
        finisher = start_stage(self._finish)
        with Keeper(list(self.lanes.values())):
            stopper = start_stage(self._close_after, claimers)
            self._forward()
            for thread in (*claimers, stopper, finisher):
                thread.join()

    def _claim(self, lane: Lane) -> None:
        """Stage one: claim, prepare. After a claim that filled the row, more is likely to wait: no need to block."""
        full = False
        while not self._stopping():
            room = self._rows.wait_for_room(lane.model, timeout_s=1.0)
            if room:
                requests = keep_trying(lane.claim, room, not full, give_up=self._stopping) or []
                full = len(requests) == room
                waiting, ended = lane.prepare(requests)
                self._rows.add(lane.model, waiting)
                self._store(lane, ended)

    def _forward(self) -> None:
        """Stage two, the device: plan, forward."""
        while (row := self._rows.take()) is not None:
            lane = self.lanes[row.model]
            waiting, late = lane.split_late(row.waiting)
            for started in run_row(lane.engine, waiting, lane.limits):
                self._started.put((lane, started, row.closed_by))
            self._store(lane, late)
        self._started.put(None)

    def _finish(self) -> None:
        """Stage three: finish."""
        previous_s = 0.0
        while (item := self._started.get()) is not None:
            lane, started, closed_by = item
            endings = lane.endings(started, closed_by)
            ended_s = time.monotonic()
            self._store(lane, endings, busy_s=ended_s - max(started.started_s, previous_s))
            previous_s = ended_s

    def _store(self, lane: Lane, endings: list[Ending], busy_s: float = 0.0) -> None:
        if endings:
            keep_trying(lane.finish, endings, busy_s, give_up=self._is_out_of_time)

    def _close_after(self, claimers: list[threading.Thread]) -> None:
        for thread in claimers:
            thread.join()
        self._rows.close()

    def _is_out_of_time(self) -> bool:
        """What cannot be stored is left to its leases. Asked by any stage: each may be the one that is held up."""
        if self._stopped_s is None and self._stopping():
            self._stopped_s = time.monotonic()
        return self._stopped_s is not None and time.monotonic() > self._stopped_s + DRAIN_S
