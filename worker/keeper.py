"""What must go on while the device is busy: leases renewed, lost requests reaped, the worker's presence told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from types import TracebackType

import orjson
from redis.exceptions import RedisError

from worker.lane import Lane

log = logging.getLogger(__name__)
REAP_EVERY_S = 1.0
HEARTBEAT_EVERY_S = 5.0
#: A worker unheard of for this long is taken off the list.
FORGET_AFTER_S = 60.0


class Keeper:
    """A thread of its own for the time of a ``with`` block; each lane is tended every second."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(REAP_EVERY_S)
        for lane in self._lanes:
            try:
                lane.queue.sign_off(lane.worker)
            except RedisError as failure:
                log.warning("could not sign off from model %s: %s", lane.model, failure)

    def _run(self) -> None:
        beats = {lane.model: round(HEARTBEAT_EVERY_S / REAP_EVERY_S) for lane in self._lanes}
        renewals = {lane.model: max(1, int(lane.lease_s / 3 / REAP_EVERY_S)) for lane in self._lanes}
        tick = 0
        while True:
            for lane in self._lanes:
                try:
                    if tick % beats[lane.model] == 0:
                        lane.queue.heartbeat(lane.worker, orjson.dumps(lane.engine.info), stale_s=FORGET_AFTER_S)
                    if tick % renewals[lane.model] == 0:
                        lane.renew()
                    lane.queue.reap()
                except RedisError as error:
                    log.warning("model %s could not be tended: %s", lane.model, error)
            tick += 1
            if self._stop.wait(REAP_EVERY_S):
                return
