"""The worker's `BatchBuffer` in virtual time: the claim threads and the device thread as one loop over events."""

import math
import threading
from typing import Any

from tests.support.worker_requests import prepared_request
from windrow.lab.costs.cost import PassCost
from windrow.lab.simulate.batch_runner import BatchRunner
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.batch_scheduler import BatchScheduler, ClaimUpTo
from windrow.scheduler.core.claim_ahead import CLAIM_BLOCK_S
from windrow.scheduler.core.planning import plan_batches
from windrow.scheduler.queue import Request
from windrow.worker.batches.batch_buffer import BatchBuffer, ClosedWindow

#: Time, ``claim`` or ``close``, and the details: the number of requests that could be claimed and those that were, or
#: the requests of the window and why it closed.
Decision = tuple[float, str, Any]


class _Blocked(Exception):
    """A claim thread waits for room until ``until_s`` or until it is woken."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s


class VirtualWorker(BatchBuffer):
    """Runs a workload on one device, as `windrow.worker.batches.batch_loop.BatchLoop` does, and records the decisions.

    Claims and preparation take no time. One claim thread is enough, because a claim that takes no time never overlaps.
    """

    def __init__(self, workload: Workload, policy: Policy, cost: PassCost) -> None:
        super().__init__({"m": BatchScheduler(policy.window)}, clock=lambda: self.now_s)
        self.now_s = 0.0
        self.decisions: list[Decision] = []
        self._workload, self._policy = workload, policy
        self._runner = BatchRunner(0, cost)
        self._arrived = self._claimed = 0
        #: The claim that blocks in Redis, and since when.
        self._claim: ClaimUpTo | None = None
        self._blocks_since_s = 0.0
        self._claim_due_s = math.inf

    def run(self) -> list[Decision]:
        """Return every decision until all requests have run."""
        done, count = 0, len(self._workload)
        while done < count:
            window = self.take()
            assert window is not None
            ids = [int(request.id) for request in window.requests]
            self.decisions.append((self.now_s, "close", (ids, window.closed_by)))
            self._forward(window)
            done += len(ids)
        return self.decisions

    def _forward(self, window: ClosedWindow) -> None:
        lengths = [request.prepared.tokens for request in window.requests]
        self._claim_more()
        for batch in plan_batches(self._policy.strategy, lengths, self._policy.limits):
            self._runner.begin(batch, range(len(lengths)), lengths, self.now_s)
            ends_s = self._runner.ends_s
            self._pass_time(ends_s)
            self._runner.end(ends_s)

    def _pass_time(self, until_s: float, stop_at_add: bool = False) -> None:
        """Process arrivals and timers until ``until_s``, or until requests are added if ``stop_at_add``."""
        arrival_s = self._workload.arrival_s
        while True:
            next_arrival_s = arrival_s[self._arrived] if self._arrived < len(arrival_s) else math.inf
            block_ends_s = self._blocks_since_s + CLAIM_BLOCK_S if self._claim else math.inf
            next_s = min(next_arrival_s, block_ends_s, self._claim_due_s)
            if next_s > until_s:
                self.now_s = until_s
                return
            self.now_s = next_s
            if next_s == next_arrival_s:
                while self._arrived < len(arrival_s) and arrival_s[self._arrived] == next_s:
                    self._arrived += 1
            elif next_s == block_ends_s:
                assert self._claim is not None
                self.add("m", [], self._claim.size)
                self._claim = None
            if self._claim_more(stop_at_add):
                return

    def _claim_more(self, stop_at_add: bool = False) -> bool:
        """Claim what has arrived while there is room; return whether it stopped after requests were added."""
        self._claim_due_s = math.inf
        while True:
            if self._claim is None:
                try:
                    self._claim = self.reserve("m", math.inf)
                except _Blocked as blocked:
                    self._claim_due_s = blocked.until_s
                    return False
                assert self._claim is not None
                self._blocks_since_s = self.now_s
            ids = list(range(self._claimed, min(self._arrived, self._claimed + self._claim.size)))
            if not ids:
                return False
            self._claimed += len(ids)
            requests = [self._prepared(id) for id in ids]
            count, self._claim = self._claim.size, None
            self.decisions.append((self.now_s, "claim", (count, ids)))
            self.add("m", requests, count)
            if stop_at_add:
                return True

    def _prepared(self, id: int) -> Request:
        tokens, arrived_s = self._workload.tokens[id], self._workload.arrival_s[id]
        return prepared_request(str(id), tokens, arrived_s=arrived_s, claimed_s=self.now_s)

    def _wait(self, condition: threading.Condition, now_s: float, until_s: float) -> None:
        """Let virtual time pass instead of blocking the thread."""
        if condition is self._room_made:
            raise _Blocked(until_s)
        if not self._claim_more(stop_at_add=True):
            self._pass_time(until_s, stop_at_add=True)
