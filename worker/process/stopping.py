"""Stopping a worker: a flag shared by its pool processes, and the signals that set it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

import billiard

log = logging.getLogger(__name__)
#: Finish the running batch and release the other requests.
GRACEFULLY = 1
#: Release all requests, those of the running batch too.
IMMEDIATELY = 2
#: 0 until the worker stops. Allocated before the fork, so that pool processes share it.
STOP = billiard.Value("b", 0, lock=False)
#: Nonzero while the worker must not claim requests; see `windrow.worker.celery.control`.
DRAINED = billiard.Value("b", 0, lock=False)
#: A second signal within this time counts as the first one, in seconds: a supervisor and the process group often both
#: send it.
DUPLICATE_SIGNAL_S = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
Handler = Callable[[int, FrameType | None], object]


def ask_to_stop(level: int) -> None:
    """Raise the stop level; it never goes down."""
    STOP.value = max(STOP.value, level)


class StopSignals:
    """Signal handlers: TERM or INT stops gracefully; a second one, or QUIT, stops immediately.

    All of them start Celery's warm shutdown. Celery's cold shutdown waits for the pool inside the signal handler, and
    costs each claimed request an attempt; the warm one is as fast, because the batch loops end by themselves.
    """

    def __init__(self, shut_down: Handler, clock: Callable[[], float] = time.monotonic) -> None:
        self._shut_down = shut_down
        self._clock = clock
        self._first_s: float | None = None

    def install(self) -> None:
        """Install the handlers; call it from the main thread."""
        for number in SIGNALS:
            signal.signal(number, self.received)

    def received(self, number: int, frame: FrameType | None) -> None:
        """Handle one of the three signals."""
        ask_to_stop(self.level_of(number))
        self._shut_down(number, frame)

    def level_of(self, number: int) -> int:
        """Return the stop level that this signal requests, given earlier signals."""
        now_s = self._clock()
        if number == signal.SIGQUIT:
            return IMMEDIATELY
        if self._first_s is None:
            self._first_s = now_s
        return IMMEDIATELY if now_s - self._first_s > DUPLICATE_SIGNAL_S else GRACEFULLY
