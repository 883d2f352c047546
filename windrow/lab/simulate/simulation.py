"""The event loop of the simulator: arrivals, claims, windows, batches, worker deaths and leases on a virtual clock.

It takes no decisions: `windrow.scheduler.core.batch_scheduler`, `windrow.scheduler.core.planning`,
`windrow.scheduler.core.fairness` and `windrow.scheduler.core.retry` take them, as in the worker.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from windrow.lab.costs.cost import CostModel
from windrow.lab.simulate.batch_runner import BatchRunner, SimulatedBatch
from windrow.lab.simulate.device import BatchDevice, Device, Policy, Step
from windrow.lab.simulate.outcome import ONE_DEVICE, Failure, Fleet, GiveUp, Outcome
from windrow.lab.simulate.ready_set import ReadySet
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.claim_ahead import CLAIM_BLOCK_S
from windrow.scheduler.core.retry import Retry, decide_retry
from windrow.scheduler.core.window import Close, Wait


def simulate(
    workload: Workload,
    policy: Policy,
    cost: CostModel,
    fleet: Fleet = ONE_DEVICE,
    give_up: GiveUp | None = None,
    draw: int = 0,
) -> Outcome:
    """Run ``workload`` to its end, or until ``give_up`` ends the run.

    ``draw`` seeds the random factors by which batches deviate from the cost line.
    """
    line = cost.of_strategy(policy.strategy)

    def make(number: int) -> Device:
        # The API, Redis and the clients share the machines of the devices, an equal part on each.
        chores_at_s = workload.arrival_s[number :: fleet.devices] if line.chore_s else ()
        return BatchDevice(BatchRunner(number, line, draw, chores_at_s), policy, workload.arrival_s, workload.tokens)

    return Simulation(workload, make, fleet, give_up, cost.handover_s).run()


class Simulation:
    """One run. A claim that finds no request blocks until one arrives, as a claim of a worker blocks in Redis."""

    def __init__(
        self,
        workload: Workload,
        make: Callable[[int], Device],
        fleet: Fleet,
        give_up: GiveUp | None = None,
        handover_s: float = 0.0,
    ) -> None:
        #: When each request can be claimed.
        self._ready_s = [at_s + handover_s for at_s in workload.arrival_s] if handover_s else workload.arrival_s
        self._workload, self._make, self._fleet = workload, make, fleet
        self._ready = ReadySet(workload)
        unknown = [math.nan] * len(workload)
        first_s = unknown.copy() if workload.output_tokens else []
        self._outcome = Outcome(workload, fleet.devices, unknown, unknown.copy(), first_s)
        self._devices = [make(number) for number in range(fleet.devices)]
        #: Devices whose claims wait for requests, the longest-waiting first.
        self._blocked: deque[Device] = deque()
        #: Time, sequence number (for events at one time) and action.
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self._give_up = give_up or GiveUp(math.inf, 1.0)
        self._late_allowed = self._give_up.share * len(workload)
        self._late = 0
        for failure in fleet.failures:
            self._at(failure.at_s, partial(self._fail, failure))

    def run(self) -> Outcome:
        """Process events until none is left, or until `GiveUp` ends the run."""
        ready_s, events, blocked, ready = self._ready_s, self._events, self._blocked, self._ready
        arrived, count = 0, len(ready_s)
        for device in self._devices:
            self._claim(device, 0.0)
        while self._late <= self._late_allowed:
            next_s = events[0][0] if events else math.inf
            # While no claim waits, an arrival changes only the queue.
            while arrived < count and ready_s[arrived] <= next_s and not blocked:
                ready.submit(arrived)
                arrived += 1
            if arrived < count and ready_s[arrived] <= next_s:
                now_s = ready_s[arrived]
                # Requests of one call arrive at the same time and are claimed together.
                while arrived < count and ready_s[arrived] == now_s:
                    ready.submit(arrived)
                    arrived += 1
                self._serve_blocked(now_s)
            elif events:
                now_s, _, happen = heapq.heappop(events)
                happen(now_s)
            else:
                return self._outcome
        self._outcome.is_hopeless = True
        return self._outcome

    def _advance(self, device: Device, now_s: float) -> None:
        """Let an idle device decide about its window, and let it claim."""
        if not device.claims_first:
            self._decide(device, now_s)
        self._claim(device, now_s)

    def _claim(self, device: Device, now_s: float) -> None:
        """Let a device claim, and start what it claimed if it decides so."""
        self._claim_ready(device, now_s)
        if device.claims_first:
            self._decide(device, now_s)
            self._claim_ready(device, now_s)

    def _claim_ready(self, device: Device, now_s: float) -> None:
        """Claim while the device may and requests are ready; then block, or wait until the next claim is due."""
        device.claim_due_s = None
        ready = self._ready
        while device.claiming or self._begin_claim(device, now_s):
            requests = ready.claim(device.claiming, device.is_empty) if ready else ()
            if not requests:
                if not device.is_blocked:
                    device.is_blocked = True
                    self._blocked.append(device)
                return
            self._unblock(device)
            device.is_isolated = ready.is_suspect(requests[0])
            device.end_claim(requests, now_s)
            if not device.claims_first:
                self._decide(device, now_s)

    def _begin_claim(self, device: Device, now_s: float) -> bool:
        plan = device.plan_claim(now_s)
        if isinstance(plan, Wait):
            if plan.until_s < math.inf:
                device.claim_due_s = plan.until_s
                self._at(plan.until_s, partial(self._claim_when_due, device, plan.until_s))
            return False
        device.begin_claim(plan.size)
        device.claiming_since_s = now_s
        return True

    def _serve_blocked(self, now_s: float) -> None:
        """Let each blocked claim take requests while there are any."""
        for _ in range(len(self._blocked)):
            if not self._ready:
                return
            device = self._blocked[0]
            self._unblock(device)
            blocks = (now_s - device.claiming_since_s) // CLAIM_BLOCK_S
            last_block_s = device.claiming_since_s + blocks * CLAIM_BLOCK_S
            # A claim that blocked for this long returned empty. The device then decided anew whether to claim.
            if blocks and not (device.is_running and device.running_since_s >= last_block_s):
                device.end_claim((), now_s)
            self._claim(device, now_s)

    def _unblock(self, device: Device) -> None:
        if device.is_blocked:
            self._blocked.remove(device)
            device.is_blocked = False

    def _decide(self, device: Device, now_s: float) -> None:
        if device.is_running or not device.waiting:
            return
        decision = device.decide(now_s)
        if isinstance(decision, Close):
            self._start(device, decision.closed_by, now_s)
        elif device.window_due_s is None or decision.until_s < device.window_due_s:
            device.window_due_s = decision.until_s
            self._at(decision.until_s, partial(self._decide_when_due, device, decision.until_s))

    def _start(self, device: Device, closed_by: str, now_s: float) -> None:
        device.window_due_s = None
        self._outcome.closed_by[closed_by] += 1
        device.start(now_s)
        self._watch(device)

    def _decide_when_due(self, device: Device, due_s: float, now_s: float) -> None:
        if device.window_due_s == due_s and not device.is_dead:
            device.window_due_s = None
            self._advance(device, now_s)

    def _claim_when_due(self, device: Device, due_s: float, now_s: float) -> None:
        if device.claim_due_s == due_s and not device.is_dead:
            self._claim(device, now_s)

    def _watch(self, device: Device) -> None:
        if device.ends_s < math.inf:
            self._at(device.ends_s, partial(self._end, device, device.ends_s))

    def _end(self, device: Device, due_s: float, now_s: float) -> None:
        # A batch that began in the meantime may have delayed the end.
        if device.ends_s != due_s or device.is_dead:
            return
        was_running = device.is_running
        self._record(device.end(now_s))
        self._watch(device)
        if (was_running and not device.is_running) or device.is_empty:
            self._advance(device, now_s)

    def _record(self, batches: Sequence[SimulatedBatch]) -> None:
        outcome, arrival_s = self._outcome, self._workload.arrival_s
        start_s, end_s = outcome.start_s, outcome.end_s
        slo_s, by_first = self._give_up.slo_s, self._give_up.by_first
        outcome.batches += batches
        for batch in batches:
            for request in batch.requests:
                start_s[request], end_s[request] = batch.start_s, batch.end_s
                self._late += not by_first and batch.end_s - arrival_s[request] > slo_s
            if isinstance(batch, Step):
                for request, (began_s, first_s) in zip(batch.requests, batch.times, strict=True):
                    start_s[request], outcome.first_s[request] = began_s, first_s
                    self._late += by_first and first_s - arrival_s[request] > slo_s

    def _fail(self, failure: Failure, now_s: float) -> None:
        device = self._devices[failure.device]
        if device.is_dead:
            return
        device.is_dead = True
        self._unblock(device)
        lost, lost_s = device.die(now_s)
        self._outcome.lost_s += lost_s
        self._at(now_s + self._fleet.lease_s, partial(self._reap, lost))
        self._at(now_s + failure.down_s, partial(self._replace, failure.device))

    def _replace(self, number: int, now_s: float) -> None:
        self._devices[number] = self._make(number)
        self._claim(self._devices[number], now_s)

    def _reap(self, lost: list[int], now_s: float) -> None:
        """Requeue the requests of a dead worker whose lease has expired."""
        deaths, requeued = self._ready.deaths, []
        for request in lost:
            deaths[request] = deaths.get(request, 0) + 1
            if isinstance(decide_retry(deaths[request], self._fleet.max_attempts), Retry):
                requeued.append(request)
        self._outcome.redelivered += len(requeued)
        self._outcome.failed += len(lost) - len(requeued)
        self._ready.requeue(requeued)
        self._serve_blocked(now_s)

    def _at(self, when_s: float, happen: Callable[[float], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (when_s, self._numbers, happen))
