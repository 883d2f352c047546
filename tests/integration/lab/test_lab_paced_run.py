"""Record the real queue and batch loop with a device that sleeps, and simulate the recording."""

from pathlib import Path

import pytest

from windrow.bench.record.load import Load
from windrow.bench.record.paced import record_paced
from windrow.lab.costs.cost import CostModel, PassCost
from windrow.lab.measure.recording import read_recording, write_recording
from windrow.lab.report.overlay import compare
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.simulation import simulate
from windrow.scheduler.core.planning import BatchLimits

pytestmark = pytest.mark.integration


def test_a_recorded_run_is_complete_and_can_be_simulated(tmp_path: Path) -> None:
    cost = CostModel(PassCost(0.002, 0.0), PassCost(0.002, 0.0))
    policy = Policy("packed", BatchLimits(8, 4096), 0.0)
    write_recording(tmp_path / "run.jsonl", record_paced(policy, cost, Load("poisson", 200.0, 100, 1), print))
    recording = read_recording(tmp_path / "run.jsonl")
    assert len(recording.requests) == 100
    assert sum(len(batch.lengths) for batch in recording.passes()) == 100
    assert all(batch.seconds >= 0.002 for batch in recording.passes())
    assert all(request.latency_s >= request.queue_s + 0.002 for request in recording.requests)
    assert set(compare(recording, [simulate(recording.workload, recording.policy, cost)])) >= {
        "throughput_per_s",
        "p99",
    }
