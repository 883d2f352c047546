"""What must go on while the device is busy: leases renewed, lost requests reaped, what is there and was seen told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from redis.exceptions import RedisError

from windrow.worker.leases.leases import Leases
from windrow.worker.process.progress import Progress
from windrow.worker.process.threads import start_thread

log = logging.getLogger(__name__)
TICK_S = 1.0
HEARTBEAT_TICKS = 5


class LeaseRenewal:
    """A thread of its own for the time of a ``with`` block; each lane is tended every second.

    A device at work does not block it, nor does a C call that lets go of the interpreter's lock. One that keeps the
    lock for longer than a lease loses its requests to another worker, and its results are refused: raise ``lease_s``.
    """

    def __init__(self, lanes: Sequence[Leases], vitals: Progress) -> None:
        self._lanes = lanes
        self._vitals = vitals
        self._stop = threading.Event()

    def __enter__(self) -> LeaseRenewal:
        self._thread = start_thread(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(TICK_S)
        for lane in self._lanes:
            if not self._tend(lane, lane.store_observations):
                return

    def _run(self) -> None:
        tick = 0
        while True:
            for lane in self._lanes:
                # A loop that stalls is soon killed by the parent: it says so while it can.
                if tick % HEARTBEAT_TICKS == 0 or self._vitals.is_stalled:
                    self._tend(lane, lane.heartbeat, self._vitals.busy_s)
                # After an outage, a worker must not reap what it holds itself.
                if self._tend(lane, lane.renew):
                    self._tend(lane, lane.queue.reap)
                self._tend(lane, lane.store_observations)
            tick += 1
            if self._stop.wait(TICK_S):
                return

    def _tend(self, lane: Leases, what: Callable[..., object], *arguments: object) -> bool:
        try:
            what(*arguments)
        except RedisError as error:
            log.warning("model %s: %s failed: %s", lane.model, what.__name__, error)
            return False
        return True
