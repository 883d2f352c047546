"""One simulated device: the requests that wait on it, and those that it runs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from windrow.lab.simulate.batch_runner import BatchRunner, SimulatedBatch
from windrow.scheduler.core.batch_scheduler import BatchScheduler, ClaimUpTo
from windrow.scheduler.core.learned_window import window_limits
from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches
from windrow.scheduler.core.window import Close, Wait, WindowLimits


@dataclass(frozen=True, slots=True)
class Policy:
    """When windows close, and how their requests are planned into batches."""

    strategy: str
    limits: BatchLimits
    #: None if the wait is learned.
    max_wait_s: float | None

    @property
    def window(self) -> WindowLimits:
        """What closes a window."""
        return window_limits(self.limits.max_batch_size, self.limits.max_batch_tokens, self.max_wait_s)


@dataclass(frozen=True, slots=True)
class Step(SimulatedBatch):
    """A batch that generates one token for each decoding sequence."""

    decoding: int
    #: For each of ``requests``: when its prefill began and when its first token was ready.
    times: tuple[tuple[float, float], ...]


class Device(ABC):
    """What the event loop needs of a device. Requests are positions in the workload; times are seconds."""

    #: Whether it claims before it decides what to run. Otherwise it decides after each claim, as threads do.
    claims_first: ClassVar[bool]

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_dead = False
        #: Whether its claim blocks until a request arrives.
        self.is_blocked = False
        #: It holds a suspected poison request, which runs alone.
        self.is_isolated = False
        #: The most requests that its claim in progress may return, 0 without a claim, and when that claim began.
        self.claiming = 0
        self.claiming_since_s = 0.0
        #: When the next piece of a batch ends; infinite if none runs.
        self.ends_s = math.inf
        #: When it decides again about its window, and about a claim; None if neither is planned.
        self.window_due_s: float | None = None
        self.claim_due_s: float | None = None

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether it computes and cannot start anything else."""

    @property
    @abstractmethod
    def running_since_s(self) -> float:
        """When the present run began."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether it holds no request."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Number of requests that it holds and does not run."""

    @abstractmethod
    def plan_claim(self, now_s: float) -> ClaimUpTo | Wait:
        """Decide whether it claims now."""

    def begin_claim(self, count: int) -> None:
        """Begin a claim of up to ``count`` requests."""
        self.claiming = count

    @abstractmethod
    def end_claim(self, requests: Sequence[int], now_s: float) -> None:
        """End the claim in progress with ``requests``, which may be none."""

    @abstractmethod
    def decide(self, now_s: float) -> Close | Wait:
        """Decide whether it starts now; asked while it is idle and holds requests."""

    @abstractmethod
    def start(self, now_s: float) -> None:
        """Run the requests that are due."""

    @abstractmethod
    def end(self, now_s: float) -> Sequence[SimulatedBatch]:
        """Complete the part that ended, continue, and return the batches that are finished."""

    @abstractmethod
    def die(self, now_s: float) -> tuple[list[int], float]:
        """Return the requests that are lost, and the seconds spent on unfinished batches."""


class BatchDevice(Device):
    """Drives a `BatchScheduler` and runs the batches, as the worker's batch loop does with threads."""

    claims_first = False

    def __init__(self, runner: BatchRunner, policy: Policy, arrival_s: Sequence[float], tokens: Sequence[int]) -> None:
        super().__init__(runner.device)
        self._runner, self._policy = runner, policy
        self._arrival_s, self._tokens = arrival_s, tokens
        self._scheduler = BatchScheduler(policy.window)
        #: Positions in the workload, in the order in which the scheduler sees the requests.
        self._waiting: list[int] = []
        #: The requests that run, their lengths, and their batches that have not begun.
        self._running: list[int] = []
        self._lengths: list[int] = []
        self._planned: deque[Batch] = deque()
        self._running_since_s = 0.0

    @property
    def is_running(self) -> bool:
        """Whether the requests of a window run; the next window has to wait for them."""
        return bool(self._running)

    @property
    def running_since_s(self) -> float:
        """When the window that runs was closed."""
        return self._running_since_s

    @property
    def is_empty(self) -> bool:
        """Whether it holds no request."""
        return not self._waiting and not self._running and self._runner.is_empty

    @property
    def waiting(self) -> int:
        """Number of requests in its batch buffer."""
        return len(self._waiting)

    def plan_claim(self, now_s: float) -> ClaimUpTo | Wait:
        """Decide whether it claims now; never while a suspected poison request is here."""
        if self.is_isolated:
            return Wait(math.inf)
        return self._scheduler.plan_claim(now_s, self._scheduler)

    def begin_claim(self, count: int) -> None:
        """Begin a claim of up to ``count`` requests."""
        super().begin_claim(count)
        self._scheduler.reserve(count)

    def end_claim(self, requests: Sequence[int], now_s: float) -> None:
        """End the claim in progress and add ``requests`` to the batch buffer; preparing them takes no time here."""
        self._scheduler.release(self.claiming)
        self.claiming = 0
        if requests:
            arrived_s = [self._arrival_s[request] for request in requests]
            position = self._scheduler.add(now_s, arrived_s, [self._tokens[request] for request in requests], 0.0)
            self._waiting[position:position] = requests

    def decide(self, now_s: float) -> Close | Wait:
        """Decide whether the window closes now."""
        return self._scheduler.decide(now_s)

    def start(self, now_s: float) -> None:
        """Plan the window's requests into batches and begin the first."""
        count, tokens = self._scheduler.take(now_s), self._tokens
        self._running = self._waiting[:count]
        del self._waiting[:count]
        self._lengths = [tokens[request] for request in self._running]
        self._running_since_s = now_s
        self._planned.extend(plan_batches(self._policy.strategy, self._lengths, self._policy.limits))
        self._continue(now_s)

    def end(self, now_s: float) -> list[SimulatedBatch]:
        """Complete a piece of a batch; begin the next batch, or end the run once the runner can take another window."""
        done = self._runner.end(now_s)
        self._continue(now_s)
        return done

    def die(self, now_s: float) -> tuple[list[int], float]:
        """Return the requests that are lost; finished batches keep their results."""
        begun, spent_s = self._runner.lost(now_s)
        not_begun = [self._running[index] for batch in self._planned for index in batch.indices]
        return begun + not_begun + self._waiting, spent_s

    def _continue(self, now_s: float) -> None:
        while self._planned and self._runner.has_room:
            self._runner.begin(self._planned.popleft(), self._running, self._lengths, now_s)
        if self._running and not self._planned and self._runner.has_room:
            self._scheduler.end_run(now_s)
            self._running = []
            self.is_isolated = False
        self.ends_s = self._runner.ends_s
