"""Recorded runs: reading, fitting of costs, and comparison with a simulation."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from windrow.lab.costs.cost import CostModel, PassCost
from windrow.lab.costs.fitting import fit_passes
from windrow.lab.costs.shared_cores import Shared
from windrow.lab.measure.recording import Recorded, Recording, read_recording, write_recording
from windrow.lab.report.overlay import compare, overlay_rows
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.outcome import Outcome
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.traces import read_trace
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.planning import BatchLimits

COST = CostModel(PassCost(0.01, 0.001), PassCost(0.01, 0.001))
CORES = CostModel(*[PassCost(0.004, 0.001, lanes=2, chore_s=0.003)] * 2)


def run(cost: CostModel = COST, every_s: float = 0.01) -> tuple[Recording, Outcome]:
    """Return a simulated run as a recording, together with its outcome."""
    workload = Workload([every_s * number for number in range(100)], [5 + number % 20 for number in range(100)])
    policy = Policy("packed", BatchLimits(8, 1000), 0.005)
    outcome = simulate(workload, policy, cost)
    recorded: dict[int, Recorded] = {}
    for number, batch in enumerate(outcome.batches):
        for request in batch.requests:
            at_s = workload.arrival_s[request]
            recorded[request] = Recorded(
                at_s, workload.tokens[request], batch.start_s - at_s, batch.end_s - at_s, f"pass-{number}",
                batch.end_s - batch.start_s, len(batch.requests), batch.tokens,
            )  # fmt: skip
    return Recording(policy, 1, {"model": "minilm"}, [recorded[request] for request in range(100)]), outcome


def test_a_recording_round_trips(tmp_path: Path) -> None:
    recording, outcome = run()
    write_recording(tmp_path / "run.jsonl", recording)
    found = read_recording(tmp_path / "run.jsonl")
    assert found.requests == recording.requests
    assert found.policy == recording.policy
    assert len(found.passes()) == len(outcome.batches)
    assert read_trace(tmp_path / "run.jsonl").tokens == recording.workload.tokens


def test_a_recording_equal_to_its_simulation_has_no_error() -> None:
    recording, outcome = run()
    compared = compare(recording, [outcome])
    assert set(compared) == {"throughput_per_s", "mean", "p50", "p95", "p99"}
    assert all(abs(figure["error"]) < 1e-9 for figure in compared.values())
    assert overlay_rows(compared)[1][-1].endswith("0.0%")


def test_costs_are_fitted_from_the_passes_of_a_recording() -> None:
    cost, error = fit_passes(run()[0].passes())
    assert cost.seconds(100, 8) == pytest.approx(0.11)
    assert error.p95 < 1e-6


def test_costs_per_core_are_fitted_from_overlapping_passes() -> None:
    recording, outcome = run(CORES, 0.020)
    assert any(after.start_s < before.end_s for before, after in pairwise(outcome.batches))
    found, error = fit_passes(recording.passes(), 2)
    assert found.seconds(50, 1) == pytest.approx(CORES.of_strategy("packed").seconds(50, 1), rel=0.02)
    assert found.chore_s == pytest.approx(0.003, rel=0.1)
    assert error.median < 0.02


def test_costs_per_core_cannot_be_fitted_from_a_run_without_pauses() -> None:
    with pytest.raises(ValueError, match=r"^0 of 14 measured batches were one text that ran alone.*a lower rate"):
        fit_passes(run(CORES, 0.002)[0].passes(), 2)


def test_a_pass_that_starts_during_another_shares_the_device_with_it() -> None:
    # The passes run from 0 to 10 ms, from 4 to 20 ms and from 30 to 40 ms.
    recorded = [Recorded(at_s, 5, 0.0, duration_s, f"pass-{at_s}", duration_s, 1, 5)
            for at_s, duration_s in ((0.0, 0.010), (0.004, 0.016), (0.030, 0.010))]  # fmt: skip
    policy = Policy("packed", BatchLimits(8, 1000), 0.0)
    passes = Recording(policy, 1, {}, recorded).passes()
    assert [timed.seconds for timed in passes] == [0.010, 0.016, 0.010]
    assert [timed.shared.busy_s for timed in passes] == [(), (pytest.approx(0.006),), ()]
    assert [timed.shared.next_s for timed in passes] == pytest.approx([0.004, 0.026, math.inf])
    assert fit_passes(passes)[0].seconds(5, 1) == pytest.approx(0.010)  # the second pass runs after the first
    assert {timed.shared for timed in Recording(policy, 2, {}, recorded).passes()} == {Shared()}


def test_captured_sizes_are_stored_in_a_recording(tmp_path: Path) -> None:
    recording, _ = run()
    limits = BatchLimits(8, 1000, rungs=(64, 128), row_rungs=((1, 2), (1,)))
    write_recording(tmp_path / "run.jsonl", replace(recording, policy=replace(recording.policy, limits=limits)))
    assert read_recording(tmp_path / "run.jsonl").policy.limits == limits


def test_the_handover_is_estimated_from_passes_that_start_on_an_idle_device() -> None:
    recorded = [Recorded(float(n), 5, 0.002, 0.012, f"pass-{n}", 0.010, 1, 5) for n in range(40)]
    policy = Policy("packed", BatchLimits(8, 1000), 0.005)
    assert Recording(policy, 1, {}, recorded).handover_s() == pytest.approx(0.002)
    assert Recording(policy, 1, {}, recorded[:5]).handover_s() == 0.0


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, {"windrow_run": 7}, "line 1: not a run that"),
        (1, {"strategy": "best"}, "line 1: strategy 'best'"),
        (1, {"devices": None}, "line 1: devices: Input should be a valid integer"),
        (5, {"arrival_s": -1}, "line 5: arrival_s: .*greater than or equal to 0"),
        (5, {"latency_s": float("nan")}, "line 5: latency_s: .*finite"),
        (5, {"tokens": 0}, "line 5: tokens: .*greater than or equal to 1"),
        (5, {"arrival_s": 0.0}, "line 5: arrives before"),
    ],
)
def test_a_malformed_recording_is_refused_with_its_line(
    tmp_path: Path, line: int, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "run.jsonl"
    write_recording(file, run()[0])
    lines = file.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_recording(file)


@pytest.mark.parametrize(
    ("text", "message"), [("", "line 1: not a run"), ("{}\n", "line 1: not a run"), ("x", "not JSON")]
)
def test_a_file_that_is_not_a_recording_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recording(file)
