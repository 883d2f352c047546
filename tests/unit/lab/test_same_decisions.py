"""The simulator decides like the worker: the same requests lead to the same claims and the same windows."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.virtual_worker import Decision, VirtualWorker
from windrow.lab.costs.cost import PassCost
from windrow.lab.simulate.batch_runner import BatchRunner
from windrow.lab.simulate.device import BatchDevice, Policy
from windrow.lab.simulate.outcome import Fleet
from windrow.lab.simulate.simulation import Simulation
from windrow.lab.simulate.workload import PATTERNS, Workload, draw_arrivals
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import Close, Wait

SHORT, LONG, LINEAR, VERY_LONG = PassCost(0.005, 1e-6), PassCost(0.1, 0.0), PassCost(0.001, 1e-4), PassCost(2.5, 0.0)


class RecordingDevice(BatchDevice):
    """A simulated device that records its decisions in the form of `VirtualWorker`."""

    def __init__(self, workload: Workload, policy: Policy, cost: PassCost) -> None:
        super().__init__(BatchRunner(0, cost), policy, workload.arrival_s, workload.tokens)
        self.decisions: list[Decision] = []
        self._closed_by = ""

    def end_claim(self, requests: Sequence[int], now_s: float) -> None:
        if requests:
            self.decisions.append((now_s, "claim", (self.claiming, list(requests))))
        super().end_claim(requests, now_s)

    def decide(self, now_s: float) -> Close | Wait:
        decision = super().decide(now_s)
        if isinstance(decision, Close):
            self._closed_by = decision.closed_by
        return decision

    def start(self, now_s: float) -> None:
        super().start(now_s)
        self.decisions.append((now_s, "close", (list(self._running), self._closed_by)))


def both(workload: Workload, policy: Policy, cost: PassCost) -> tuple[list[Decision], list[Decision]]:
    """Return the decisions of the worker and of the simulator in order of time, up to the last window."""
    device = RecordingDevice(workload, policy, cost)
    Simulation(workload, lambda _: device, Fleet()).run()
    worker = VirtualWorker(workload, policy, cost).run()
    last_s = worker[-1][0]
    return worker, [decision for decision in device.decisions if decision[0] <= last_s]


CASES = {
    "sparse": (5.0, 8, 4000, 0.005, SHORT),
    "steady": (300.0, 8, 4000, 0.005, SHORT),
    "bursts": (150.0, 8, 4000, 0.020, SHORT),
    "overloaded": (3000.0, 8, 4000, 0.005, SHORT),
    "limited by tokens": (200.0, 64, 300, 0.005, LINEAR),
    "long runs": (60.0, 8, 4000, 0.005, LONG),
    "runs longer than a blocking claim": (1.0, 4, 4000, 0.005, VERY_LONG),
    "learned, steady": (200.0, 8, 4000, None, SHORT),
    "learned, bursts": (100.0, 8, 4000, None, LINEAR),
    "learned, limited by tokens": (150.0, 64, 300, None, LINEAR),
    "no window": (200.0, 8, 4000, 0.0, SHORT),
}


@pytest.mark.parametrize("name", CASES)
def test_worker_and_simulator_take_the_same_decisions_at_the_same_times(name: str) -> None:
    rate_per_s, size, tokens, wait_s, cost = CASES[name]
    numbers = np.random.default_rng(7)
    pattern = PATTERNS["bursts" if "bursts" in name else "poisson"]
    workload = Workload(draw_arrivals(pattern, rate_per_s, 800, numbers), numbers.integers(1, 100, 800).tolist())
    worker, simulator = both(workload, Policy("packed", BatchLimits(size, tokens), wait_s), cost)
    assert simulator == worker
    assert sum(len(detail[0]) for _, kind, detail in worker if kind == "close") == 800


def test_a_backlog_leads_to_the_same_decisions() -> None:
    workload = Workload([0.0] * 500 + [9.0, 9.001, 9.5], [40] * 503)
    worker, simulator = both(workload, Policy("packed", BatchLimits(16, 300), 0.005), LINEAR)
    assert simulator == worker
