"""Rows being filled: what was claimed and prepared, waiting for the device, per model."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count
from scheduler.queue import Claimed
from worker.engines.base import Prepared


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request ready for the device."""

    request: Claimed
    prepared: Prepared
    #: When it was submitted, as `time.monotonic` would have read here.
    arrived_s: float
    #: When this process claimed it, `time.monotonic`.
    claimed_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """What the device takes in one go."""

    model: str
    waiting: list[Waiting]
    #: ``size``, ``tokens``, ``wait`` or ``idle``
    closed_by: str


class Rows:
    """One row per model, filled by the claim threads and taken by the device thread.

    Bounded: a row never holds more than ``max_batch_size`` requests, so a worker never claims more than it runs next.
    """

    def __init__(self, limits: dict[str, WindowLimits], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._rows: dict[str, deque[Waiting]] = {model: deque() for model in limits}
        self._rates = {model: JoinRate.unknown(limit.max_wait_s) for model, limit in limits.items()}
        self._joins = dict.fromkeys(limits, 0)
        #: Since when each model has had something waiting or running; None while it has neither.
        self._exposed_s: dict[str, float | None] = dict.fromkeys(limits)
        self._running: str | None = None
        self._closed = False
        self._changed = threading.Condition()

    def wait_for_room(self, model: str, timeout_s: float) -> int:
        """Return how many more requests the row takes, waiting up to ``timeout_s`` while it is full."""
        with self._changed:
            self._changed.wait_for(lambda: self._room(model) > 0 or self._closed, timeout_s)
            return self._room(model)

    def add(self, model: str, waiting: Sequence[Waiting]) -> None:
        """Add requests to the row in fair order."""
        if not waiting:
            return
        with self._changed:
            if self._exposed_s[model] is None:
                # The first to arrive is not company; what comes after it is.
                self._exposed_s[model] = waiting[0].claimed_s
                self._joins[model] -= 1
            self._joins[model] += len(waiting)
            self._rows[model].extend(waiting)
            self._changed.notify_all()

    def take(self) -> Row | None:
        """Block until a window closes and return its row; None once `close` was called and nothing is left.

        The caller is the device: calling again says that the last row is done.
        """
        with self._changed:
            self._end_of_run()
            while True:
                now_s = self._clock()
                decisions = {model: self._decide(model, now_s) for model, row in self._rows.items() if row}
                due = {model: made.closed_by for model, made in decisions.items() if isinstance(made, Close)}
                if due:
                    oldest = min(due, key=lambda model: self._rows[model][0].arrived_s)
                    return self._take(oldest, due[oldest])
                if self._closed:
                    return None
                waits = [made.seconds for made in decisions.values() if isinstance(made, Wait)]
                self._changed.wait(min(waits, default=None))

    def close(self) -> None:
        """Say that nothing more will come; what is in the rows is still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _room(self, model: str) -> int:
        return self._limits[model].max_batch_size - len(self._rows[model])

    def _decide(self, model: str, now_s: float) -> Close | Wait:
        row = self._rows[model]
        if self._closed:
            return Close("idle")
        tokens = sum(waiting.prepared.tokens for waiting in row)
        rate = self._observed(model, now_s)
        return decide_window(now_s, min(one.arrived_s for one in row), len(row), tokens, self._limits[model], rate)

    def _take(self, model: str, closed_by: str) -> Row:
        row, limits = self._rows[model], self._limits[model]
        count = take_count([waiting.prepared.tokens for waiting in row], limits)
        self._running = model
        taken = Row(model, [row.popleft() for _ in range(count)], closed_by)
        self._changed.notify_all()
        return taken

    def _observed(self, model: str, now_s: float) -> JoinRate:
        since_s = self._exposed_s[model]
        exposure_s = 0.0 if since_s is None else max(0.0, now_s - since_s)
        return self._rates[model].observe(self._joins[model], exposure_s, self._limits[model].max_wait_s)

    def _end_of_run(self) -> None:
        """Book what joined while the last row ran, and stop the exposure where nothing is left."""
        model, self._running = self._running, None
        if model is None:
            return
        now_s = self._clock()
        self._rates[model] = self._observed(model, now_s)
        self._joins[model] = 0
        self._exposed_s[model] = now_s if self._rows[model] else None
