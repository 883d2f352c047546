"""Rows being filled: what was claimed and prepared, waiting for the device, per model."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from windrow.scheduler.core.claim_ahead import Pace
from windrow.scheduler.core.learned_window import LearnedWindow
from windrow.scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count
from windrow.scheduler.queue import Request

#: Rows that wait or are being prepared while short ones run.
ROWS_AHEAD = 2
#: Where rows are full of tokens before they are full of requests: how much more is claimed than filled the last one.
FULLER = 1.5


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """What the device takes in one go."""

    model: str
    waiting: list[Request]
    #: ``size``, ``tokens``, ``wait`` or ``idle``
    closed_by: str


class BatchBuffer:
    """One row per model, filled by the claim threads and taken by the device thread.

    Bounded: no more than one row of ``max_batch_size`` requests waits or is being prepared, nor half as much again as
    fills ``max_batch_tokens``, so that a worker does not claim much more than it runs next. Where rows are over sooner
    than the next can be made ready, it is `ROWS_AHEAD` times that.
    """

    def __init__(
        self,
        limits: dict[str, WindowLimits],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = dict(limits)
        #: Requests that claim threads may yet bring.
        self._reserved = dict.fromkeys(limits, 0)
        self._clock = clock
        self._rows: dict[str, deque[Request]] = {model: deque() for model in limits}
        self._rates = {model: JoinRate.unknown(limit.max_wait_s) for model, limit in limits.items()}
        self._learnt = {model: LearnedWindow(limit) for model, limit in limits.items() if limit.is_learnt}
        self._joins = dict.fromkeys(limits, 0)
        #: Since when each model has had something waiting or running; None while it has neither.
        self._exposed_s: dict[str, float | None] = dict.fromkeys(limits)
        #: The row that runs: its model, its requests, its tokens, and since when.
        self._running: tuple[str, int, int, float] | None = None
        self._paces = dict.fromkeys(limits, Pace())
        #: How many requests like those of the last row fill one with tokens; not known before the first.
        self._filling = dict.fromkeys(limits, math.inf)
        self._closed = False
        # One lock, and each thread is woken for what concerns it: wake-ups are what a lone request mostly waits for.
        lock = threading.RLock()
        self._filled, self._room_made = threading.Condition(lock), threading.Condition(lock)

    def reserve(self, model: str, timeout_s: float) -> int:
        """Return how many more requests may be claimed, at most a row, waiting up to ``timeout_s`` while it is none.

        While a row runs that is because it is early, see `Pace`. They are the caller's until `add`.
        """
        with self._room_made:
            end_s = self._clock() + timeout_s
            while not self._closed:
                now_s = self._clock()
                room, early_s = self._room(model), self._early_s(model, now_s)
                if room and not early_s:
                    self._reserved[model] += room
                    return room
                if now_s >= end_s:
                    break
                self._room_made.wait(min(end_s - now_s, early_s or timeout_s))
            return 0

    def enough(self, model: str, room: int) -> int:
        """How many requests like those of the last row fill one, at most ``room``."""
        return max(1, int(min(room, self._filling[model])))

    def add(self, model: str, waiting: Sequence[Request], reserved: int, prepare_s: float = 0.0) -> None:
        """Add requests to the row in the order of the claims, and let go of what was ``reserved`` for them.

        ``prepare_s`` is how long it took to claim them and to make them ready.
        """
        with self._filled:
            self._reserved[model] -= reserved
            if not waiting:
                self._wake_claimers(model)
                return
            self._paces[model] = self._paces[model].prepared(prepare_s)
            if self._exposed_s[model] is None:
                # The first to arrive is not company; what comes after it is.
                self._exposed_s[model] = waiting[0].claimed_s
                self._joins[model] -= 1
            self._joins[model] += len(waiting)
            if model in self._learnt:
                for one in waiting:
                    self._learnt[model].arrived(one.arrived_s, one.prepared.tokens)
            row = self._rows[model]
            is_overtaken = bool(row) and row[-1].claimed_s > waiting[0].claimed_s
            row.extend(waiting)
            if is_overtaken:  # what another thread claimed later was ready sooner
                self._rows[model] = deque(sorted(row, key=lambda one: one.claimed_s))
            self._filled.notify()
            self._wake_claimers(model)

    def take(self) -> ClosedWindow | None:
        """Block until a window closes and return its row; None once `close` was called.

        The caller is the device: calling again says that the last row is done.
        """
        with self._filled:
            self._end_of_run()
            while not self._closed:
                now_s = self._clock()
                decisions = {model: self._decide(model, now_s) for model, row in self._rows.items() if row}
                due = {model: made.closed_by for model, made in decisions.items() if isinstance(made, Close)}
                if due:
                    # By when they came into the row: by when they were submitted, a backlog would always come first.
                    oldest = min(due, key=lambda model: self._rows[model][0].claimed_s)
                    return self._take(oldest, due[oldest], now_s)
                waits = [made.seconds for made in decisions.values() if isinstance(made, Wait)]
                self._filled.wait(min(waits, default=None))
            return None

    def set_limits(self, model: str, limits: WindowLimits) -> None:
        """Let the rows of ``model`` close otherwise from now on."""
        with self._filled:
            self._limits[model] = limits
            self._rates[model] = JoinRate.unknown(limits.max_wait_s)
            self._learnt.pop(model, None)
            if limits.is_learnt:
                self._learnt[model] = LearnedWindow(limits)
            self._joins[model] = 0
            self._exposed_s[model] = self._clock() if self._rows[model] else None
            self._filled.notify()
            self._room_made.notify_all()

    def wait_s(self, model: str) -> float:
        """The longest that a row of ``model`` waits now, in seconds."""
        learnt = self._learnt.get(model)
        return (learnt.limits if learnt else self._limits[model]).max_wait_s

    def close(self) -> None:
        """Say that nothing more is taken; `empty` has what is left."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._room_made.notify_all()

    def empty(self) -> dict[str, list[Request]]:
        """Take out everything that no row took, by model."""
        with self._filled:
            left = {model: list(row) for model, row in self._rows.items() if row}
            for row in self._rows.values():
                row.clear()
            self._room_made.notify_all()
            return left

    def _room(self, model: str) -> int:
        limits, reserved, is_short = self._limits[model], self._reserved[model], self._paces[model].is_short
        if reserved and not is_short:
            return 0  # one claim at a time is enough
        most = math.ceil(min(limits.max_batch_size, FULLER * self._filling[model]))
        return max(0, min(most, (ROWS_AHEAD if is_short else 1) * most - len(self._rows[model]) - reserved))

    def _wake_claimers(self, model: str) -> None:
        if self._paces[model].is_short or not self._reserved[model]:
            self._room_made.notify_all()

    def _early_s(self, model: str, now_s: float) -> float:
        if self._running is None:
            return 0.0
        runs, _, tokens, since_s = self._running
        expected = replace(self._paces[runs], prepare_s=self._paces[model].prepare_s)
        return expected.claim_in_s(tokens, now_s - since_s)

    def _decide(self, model: str, now_s: float) -> Close | Wait:
        row = self._rows[model]
        tokens = sum(waiting.prepared.tokens for waiting in row)
        learnt = self._learnt.get(model)
        limits = learnt.limits if learnt else self._limits[model]
        rate = None if learnt else self._observed(model, now_s)
        return decide_window(now_s, min(one.arrived_s for one in row), len(row), tokens, limits, rate)

    def _take(self, model: str, closed_by: str, now_s: float) -> ClosedWindow:
        row, limits = self._rows[model], self._limits[model]
        tokens = [waiting.prepared.tokens for waiting in row]
        count = take_count(tokens, limits)
        self._running = model, count, sum(tokens[:count]), now_s
        self._filling[model] = limits.max_batch_tokens * count / max(1, sum(tokens[:count]))
        taken = ClosedWindow(model, [row.popleft() for _ in range(count)], closed_by)
        self._wake_claimers(model)
        return taken

    def _observed(self, model: str, now_s: float) -> JoinRate:
        since_s = self._exposed_s[model]
        exposure_s = 0.0 if since_s is None else max(0.0, now_s - since_s)
        return self._rates[model].observe(self._joins[model], exposure_s, self._limits[model].max_wait_s)

    def _end_of_run(self) -> None:
        """Book what joined while the last row ran, and stop the exposure where nothing is left."""
        running, self._running = self._running, None
        if running is None:
            return
        model, count, tokens, since_s = running
        now_s = self._clock()
        if model in self._learnt:
            self._learnt[model].ran(now_s, count, tokens, now_s - since_s)
        self._paces[model] = self._paces[model].ran(tokens, now_s - since_s)
        self._rates[model] = self._observed(model, now_s)
        self._joins[model] = 0
        self._exposed_s[model] = now_s if self._rows[model] else None
        self._room_made.notify_all()  # no claim has to wait for the end of a row any more
