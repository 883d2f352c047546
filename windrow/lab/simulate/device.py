"""One simulated device that runs rows: the one it fills, the one it runs, and what it has learnt of its traffic.

What `windrow.worker.batches.batch_buffer` does with threads, here in virtual time, by the same decisions of
`windrow.scheduler.core`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from windrow.lab.simulate.passes import BatchRunner, SimulatedBatch
from windrow.scheduler.core.claim_ahead import Pace
from windrow.scheduler.core.learned_window import MAX_WAIT_S, LearnedWindow
from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches
from windrow.scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count

#: Rows that wait or are being prepared while short ones run, as in the worker.
ROWS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """How rows are closed and what becomes of them."""

    strategy: str
    limits: BatchLimits
    #: None where the wait is learnt.
    max_wait_s: float | None

    @property
    def window(self) -> WindowLimits:
        """What closes a window."""
        size, tokens = self.limits.max_batch_size, self.limits.max_batch_tokens
        if self.max_wait_s is None:
            return WindowLimits(size, tokens, MAX_WAIT_S, is_learnt=True)
        return WindowLimits(size, tokens, self.max_wait_s)


@dataclass(frozen=True, slots=True)
class Step(SimulatedBatch):
    """A pass that gives one token to each sequence that decodes."""

    decoding: int
    #: Of each of ``requests``, when its prompt began to be read and when its first token was there.
    times: tuple[tuple[float, float], ...]


class Device(ABC):
    """What the event loop asks of a device. Requests are positions in the workload, times are seconds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_dead = False
        #: It holds a suspect, which nothing may join.
        self.is_closed = False
        #: It waits for work.
        self.is_in_line = False
        #: When the next part of what it computes will be over; infinite where nothing runs.
        self.over_s = math.inf
        #: When it will look at its window and claim again; None where neither is planned.
        self.window_due_s: float | None = None
        self.claim_due_s: float | None = None

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether it computes, and cannot begin anything else."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether it holds nothing at all."""

    @property
    @abstractmethod
    def waits(self) -> int:
        """Requests that it holds and does not run."""

    @property
    @abstractmethod
    def room(self) -> int:
        """Requests that it may claim now, at most a row."""

    @property
    @abstractmethod
    def window_ends_s(self) -> float:
        """When what it holds has waited for as long as it may."""

    @abstractmethod
    def claim_in_s(self, now_s: float) -> float:
        """Seconds until it claims again; infinite for the end of what runs."""

    @abstractmethod
    def add(self, requests: Sequence[int], now_s: float) -> None:
        """It claimed these."""

    @abstractmethod
    def decide(self, now_s: float) -> Close | Wait:
        """Whether it starts now; asked where it is idle and holds something."""

    @abstractmethod
    def start(self, now_s: float) -> None:
        """Run what is due."""

    @abstractmethod
    def end(self, now_s: float) -> Sequence[SimulatedBatch]:
        """A part of what runs is over: go on, learn from what is complete, and give the passes that are."""

    @abstractmethod
    def die(self, now_s: float) -> tuple[list[int], float]:
        """The requests that are lost, and the seconds spent on what was not over."""


class BatchDevice(Device):
    """Fills rows and runs them, for requests that end with their pass."""

    def __init__(self, passes: BatchRunner, policy: Policy, arrival_s: Sequence[float], tokens: Sequence[int]) -> None:
        super().__init__(passes.device)
        self._passes, self._policy = passes, policy
        self._arrival_s, self._tokens = arrival_s, tokens
        self._window = policy.window
        #: Claimed and waiting, as positions in the workload, in the order of the claims.
        self._row: list[int] = []
        self._opened_s = 0.0
        self._row_tokens = 0
        #: The row that runs, its lengths, and its passes that have not begun.
        self._taken: list[int] = []
        self._lengths: list[int] = []
        self._planned: deque[Batch] = deque()
        self._running_since_s = 0.0
        self._learnt = LearnedWindow(self._window) if self._window.is_learnt else None
        self._rate = JoinRate.unknown(self._window.max_wait_s)
        self._joins = 0
        #: Since when something waits or runs here; None while nothing does.
        self._exposed_s: float | None = None
        self._pace = Pace()
        #: Requests that may wait here.
        self._most_waiting = self._window.max_batch_size

    @property
    def is_running(self) -> bool:
        """Whether a row runs that the next one has to wait for."""
        return bool(self._taken)

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing at all."""
        return not self._row and not self._taken and self._passes.is_empty

    @property
    def waits(self) -> int:
        """Requests of the row that it fills."""
        return len(self._row)

    @property
    def room(self) -> int:
        """Requests that it may claim now, at most a row."""
        free = self._most_waiting - len(self._row)
        size = self._window.max_batch_size
        return 0 if self.is_closed or free <= 0 else size if free > size else free

    @property
    def window_ends_s(self) -> float:
        """When the row has waited for as long as it may."""
        return self._opened_s + (self._learnt.limits if self._learnt else self._window).max_wait_s

    def claim_in_s(self, now_s: float) -> float:
        """Seconds until it claims: at once on an idle device, shortly before the end of a row."""
        if not self._taken:
            return 0.0
        return self._pace.claim_in_s(sum(self._lengths), now_s - self._running_since_s)

    def add(self, requests: Sequence[int], now_s: float) -> None:
        """Claimed requests join the row."""
        if self._exposed_s is None:  # the first to arrive is not company
            self._exposed_s = now_s
            self._joins -= 1
        self._joins += len(requests)
        if self._learnt:
            for request in requests:
                self._learnt.arrived(self._arrival_s[request], self._tokens[request])
        opened_s = min(self._arrival_s[request] for request in requests)
        self._opened_s = min(self._opened_s, opened_s) if self._row else opened_s
        self._row.extend(requests)
        self._row_tokens += sum(self._tokens[request] for request in requests)

    def decide(self, now_s: float) -> Close | Wait:
        """Whether the row, which is not empty, goes now."""
        limits, rate = (self._learnt.limits, None) if self._learnt else (self._window, self._observed(now_s))
        return decide_window(now_s, self._opened_s, len(self._row), self._row_tokens, limits, rate)

    def start(self, now_s: float) -> None:
        """Run the front of the row."""
        tokens = self._tokens
        count = take_count([tokens[request] for request in self._row], self._window)
        self._taken, self._row = self._row[:count], self._row[count:]
        self._lengths = [tokens[request] for request in self._taken]
        self._running_since_s = now_s
        self._row_tokens -= sum(self._lengths)
        if self._row:
            self._opened_s = min(self._arrival_s[request] for request in self._row)
        self._planned.extend(plan_batches(self._policy.strategy, self._lengths, self._policy.limits))
        self._begin(now_s)

    def end(self, now_s: float) -> list[SimulatedBatch]:
        """A piece of a pass is over: begin the next pass, or let go of the row once a core has nothing to do."""
        done = self._passes.end(now_s)
        self._begin(now_s)
        return done

    def _begin(self, now_s: float) -> None:
        while self._planned and self._passes.has_room:
            self._passes.begin(self._planned.popleft(), self._taken, self._lengths, now_s)
        if self._taken and not self._planned and self._passes.has_room:
            self._end_of_row(now_s)
        self.over_s = self._passes.over_s

    def _end_of_row(self, now_s: float) -> None:
        tokens, took_s = sum(self._lengths), now_s - self._running_since_s
        self._pace = self._pace.ran(tokens, took_s)
        if self._learnt:
            self._learnt.ran(now_s, len(self._taken), tokens, took_s)
        self._most_waiting = self._window.max_batch_size * (ROWS_AHEAD if self._pace.is_short else 1)
        self._rate = self._observed(now_s)
        self._joins = 0
        self._exposed_s = now_s if self._row else None
        self.is_closed = False
        self._taken = []

    def die(self, now_s: float) -> tuple[list[int], float]:
        """Passes that were over keep their answers."""
        begun, spent_s = self._passes.lost(now_s)
        unbegun = [self._taken[index] for batch in self._planned for index in batch.indices]
        return begun + unbegun + self._row, spent_s

    def _observed(self, now_s: float) -> JoinRate:
        exposure_s = 0.0 if self._exposed_s is None else now_s - self._exposed_s
        return self._rate.observe(self._joins, exposure_s, self._window.max_wait_s)
