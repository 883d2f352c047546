"""The event loop: arrivals, rows, windows, deaths of workers and leases on one virtual clock.

Nothing here decides anything: windows, plans, fairness, the moment of a claim and retries are those of
`windrow.scheduler.core`, which the worker runs too.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from windrow.lab.measure.cost import CostModel
from windrow.lab.simulate.device import BatchDevice, Device, Policy, Step
from windrow.lab.simulate.passes import BatchRunner, SimulatedBatch
from windrow.lab.simulate.ready_set import ReadySet
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.retry import Retry, decide_retry
from windrow.scheduler.core.window import Close


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker dies with all it holds, and its successor is ready ``down_s`` later."""

    at_s: float
    device: int
    down_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices and what happens to them. Raises `ValueError` for none, and for failures that cannot be."""

    devices: int = 1
    failures: tuple[Failure, ...] = ()
    #: From a worker's death until its requests are back in the queue.
    lease_s: float = 15.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"{self.devices} devices; takes 1 or more")
        for failure in self.failures:
            if not (0 <= failure.device < self.devices and 0 <= failure.at_s < math.inf and failure.down_s >= 0):
                raise ValueError(
                    f"a failure of device {failure.device} at {failure.at_s} s for {failure.down_s} s: takes devices "
                    f"from 0 to {self.devices - 1} and times of 0 s or more"
                )


class GiveUp(NamedTuple):
    """Stop, with ``is_hopeless``, once more than ``share`` of all took longer than ``slo_s``."""

    slo_s: float
    share: float
    #: To their first tokens, and not to their ends.
    by_first: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of each request, as columns in the workload's order, and what the devices did."""

    workload: Workload
    devices: int
    #: When the pass that answered it began and ended; NaN where none did.
    start_s: list[float]
    end_s: list[float]
    #: When the first token was there; empty where nothing is generated.
    first_s: list[float] = field(default_factory=list)
    passes: list[SimulatedBatch] = field(default_factory=list)
    closed_by: Counter[str] = field(default_factory=Counter)
    #: Requests that were given up after their last attempt.
    failed: int = 0
    redelivered: int = 0
    #: Device time of passes that died before their end.
    lost_s: float = 0.0
    #: It was stopped, since too many were late.
    is_hopeless: bool = False


def simulate(
    workload: Workload,
    policy: Policy,
    cost: CostModel,
    fleet: Fleet = Fleet(),
    give_up: GiveUp | None = None,
    draw: int = 0,
) -> Outcome:
    """Run ``workload`` to its end; or with ``give_up`` until it is hopeless.

    By how much passes miss their line is another ``draw`` from its spread.
    """
    line = cost.of_strategy(policy.strategy)

    def make(number: int) -> Device:
        # Whatever serves the requests is on the machines of the devices, an equal part on each.
        chores_at_s = workload.arrival_s[number :: fleet.devices] if line.chore_s else ()
        return BatchDevice(BatchRunner(number, line, draw, chores_at_s), policy, workload.arrival_s, workload.tokens)

    return Simulation(workload, make, fleet, give_up, cost.handover_s).run()


class Simulation:
    """One run. Devices that have room and found nothing to claim wait in line, as workers wait in ``BLPOP``."""

    def __init__(
        self,
        workload: Workload,
        make: Callable[[int], Device],
        fleet: Fleet,
        give_up: GiveUp | None = None,
        handover_s: float = 0.0,
    ) -> None:
        #: When each request can be had.
        self._ready_s = [at_s + handover_s for at_s in workload.arrival_s] if handover_s else workload.arrival_s
        self._workload, self._make, self._fleet = workload, make, fleet
        self._ready = ReadySet(workload)
        unknown = [math.nan] * len(workload)
        first_s = unknown.copy() if workload.output_tokens else []
        self._outcome = Outcome(workload, fleet.devices, unknown, unknown.copy(), first_s)
        self._devices = [make(number) for number in range(fleet.devices)]
        #: Devices that wait for work, the longest-waiting first.
        self._line: deque[Device] = deque()
        #: When, in which order of those at once, and what happens then.
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self._give_up = give_up or GiveUp(math.inf, 1.0)
        self._late_allowed = self._give_up.share * len(workload)
        self._late = 0
        for failure in fleet.failures:
            self._at(failure.at_s, partial(self._fail, failure))

    def run(self) -> Outcome:
        """Until nothing is left to happen."""
        ready_s, events, line, ready = self._ready_s, self._events, self._line, self._ready
        arrived, count = 0, len(ready_s)
        for device in self._devices:
            self._stand_in_line(device)
        while self._late <= self._late_allowed:
            next_s = events[0][0] if events else math.inf
            # While no device waits, an arrival changes nothing but the queue.
            while arrived < count and ready_s[arrived] <= next_s and not line:
                ready.submit(arrived)
                arrived += 1
            if arrived < count and ready_s[arrived] <= next_s:
                now_s = ready_s[arrived]
                # What came in one call is claimed in one.
                while arrived < count and ready_s[arrived] == now_s:
                    ready.submit(arrived)
                    arrived += 1
                self._serve_line(now_s)
            elif events:
                now_s, _, happen = heapq.heappop(events)
                happen(now_s)
            else:
                return self._outcome
        self._outcome.is_hopeless = True
        return self._outcome

    def _claim(self, device: Device, now_s: float) -> None:
        """It takes what it may, runs it if that is enough, and waits in line for more if it has room."""
        device.claim_due_s = None
        ready = self._ready
        while ready and (room := device.room) and (taken := ready.claim(room, device.is_empty)):
            device.is_closed = ready.is_suspect(taken[0])
            device.add(taken, now_s)
        if device.waits and not device.is_running:
            self._decide(device, now_s)
        elif device.room:
            self._stand_in_line(device)

    def _decide(self, device: Device, now_s: float) -> None:
        decision = device.decide(now_s)
        if isinstance(decision, Close):
            self._start(device, decision.closed_by, now_s)
            return
        if device.window_due_s is None:
            # Not a rounding before the end, when it would be asked again and again.
            device.window_due_s = max(now_s + decision.seconds, device.window_ends_s)
            self._at(device.window_due_s, partial(self._look_again, device, device.window_due_s))
        if device.room:
            self._stand_in_line(device)

    def _start(self, device: Device, closed_by: str, now_s: float) -> None:
        device.window_due_s = None
        self._outcome.closed_by[closed_by] += 1
        device.start(now_s)
        self._watch(device)
        early_s = device.claim_in_s(now_s)
        if early_s <= 0:
            self._claim(device, now_s)
            return
        if device.is_in_line:
            self._line.remove(device)
            device.is_in_line = False
        if early_s < math.inf:
            device.claim_due_s = now_s + early_s
            self._at(device.claim_due_s, partial(self._claim_when_due, device, device.claim_due_s))

    def _look_again(self, device: Device, due_s: float, now_s: float) -> None:
        if device.window_due_s == due_s and not device.is_dead:
            device.window_due_s = None
            self._decide(device, now_s)

    def _claim_when_due(self, device: Device, due_s: float, now_s: float) -> None:
        if device.claim_due_s == due_s and not device.is_dead:
            self._claim(device, now_s)

    def _watch(self, device: Device) -> None:
        if device.over_s < math.inf:
            self._at(device.over_s, partial(self._end, device, device.over_s))

    def _end(self, device: Device, due_s: float, now_s: float) -> None:
        # What began meanwhile may have put it off.
        if device.over_s != due_s or device.is_dead:
            return
        was_running = device.is_running
        self._record(device.end(now_s))
        self._watch(device)
        if (was_running and not device.is_running) or device.is_empty:
            self._claim(device, now_s)

    def _record(self, passes: Sequence[SimulatedBatch]) -> None:
        outcome, arrival_s = self._outcome, self._workload.arrival_s
        start_s, end_s = outcome.start_s, outcome.end_s
        slo_s, by_first = self._give_up.slo_s, self._give_up.by_first
        outcome.passes += passes
        for one in passes:
            for request in one.requests:
                start_s[request], end_s[request] = one.start_s, one.end_s
                self._late += not by_first and one.end_s - arrival_s[request] > slo_s
            if isinstance(one, Step):
                for request, (began_s, first_s) in zip(one.requests, one.times, strict=True):
                    start_s[request], outcome.first_s[request] = began_s, first_s
                    self._late += by_first and first_s - arrival_s[request] > slo_s

    def _fail(self, failure: Failure, now_s: float) -> None:
        device = self._devices[failure.device]
        if device.is_dead:  # what is down cannot die
            return
        device.is_dead = True
        if device.is_in_line:
            self._line.remove(device)
        lost, lost_s = device.die(now_s)
        self._outcome.lost_s += lost_s
        self._at(now_s + self._fleet.lease_s, partial(self._reap, lost))
        self._at(now_s + failure.down_s, partial(self._replace, failure.device))

    def _replace(self, number: int, now_s: float) -> None:
        self._devices[number] = self._make(number)
        self._claim(self._devices[number], now_s)

    def _reap(self, lost: list[int], now_s: float) -> None:
        """The lease of a dead worker is over."""
        deaths, back = self._ready.deaths, []
        for request in lost:
            deaths[request] = deaths.get(request, 0) + 1
            if isinstance(decide_retry(deaths[request], self._fleet.max_attempts), Retry):
                back.append(request)
        self._outcome.redelivered += len(back)
        self._outcome.failed += len(lost) - len(back)
        self._ready.give_back(back)
        self._serve_line(now_s)

    def _serve_line(self, now_s: float) -> None:
        """Those that wait in line claim, once each, while there is something."""
        for _ in range(len(self._line)):
            if not self._ready:
                return
            device = self._line.popleft()
            device.is_in_line = False
            self._claim(device, now_s)

    def _stand_in_line(self, device: Device) -> None:
        if not device.is_in_line:
            device.is_in_line = True
            self._line.append(device)

    def _at(self, when_s: float, happen: Callable[[float], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (when_s, self._numbers, happen))
