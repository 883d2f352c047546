"""How a worker is told to stop: a flag that its pool processes share, and the signals that set it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

import billiard

log = logging.getLogger(__name__)
#: End the row that runs and give the rest back.
GRACEFULLY = 1
#: Give everything back, what runs too.
AT_ONCE = 2
#: 0 until the worker stops; made before the fork, so that every pool process sees it.
STOP = billiard.Value("b", 0, lock=False)
#: Not 0 while the worker is to claim nothing; see `windrow.worker.celery.control`.
DRAINED = billiard.Value("b", 0, lock=False)
#: A supervisor and the process group often both send the signal: so soon after the first it is the same, in seconds.
SAME_SIGNAL_S = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
Handler = Callable[[int, FrameType | None], object]


def ask_to_stop(level: int) -> None:
    """Raise the flag; it never falls."""
    STOP.value = max(STOP.value, level)


class StopSignals:
    """TERM or INT: stop gracefully; once more, or QUIT: at once.

    All of them end in Celery's own warm shutdown. Its cold one waits for the pool inside the signal handler, and loses
    the requests' attempts; ours is as fast, because the residents leave by themselves.
    """

    def __init__(self, shut_down: Handler, clock: Callable[[], float] = time.monotonic) -> None:
        self._shut_down = shut_down
        self._clock = clock
        self._first_s: float | None = None

    def install(self) -> None:
        """Take the signals over. To be called by the main thread."""
        for number in SIGNALS:
            signal.signal(number, self.received)

    def received(self, number: int, frame: FrameType | None) -> None:
        """The handler of all three."""
        ask_to_stop(self.level_of(number))
        self._shut_down(number, frame)

    def level_of(self, number: int) -> int:
        """What this signal asks for, given those before it."""
        now_s = self._clock()
        if number == signal.SIGQUIT:
            return AT_ONCE
        if self._first_s is None:
            self._first_s = now_s
        return AT_ONCE if now_s - self._first_s > SAME_SIGNAL_S else GRACEFULLY
