"""A recorded run is read back as it was written, and a simulated one laid over it."""

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
    """A simulated run, written down as if it had been measured."""
    workload = Workload([every_s * number for number in range(100)], [5 + number % 20 for number in range(100)])
    policy = Policy("packed", BatchLimits(8, 1000), 0.005)
    outcome = simulate(workload, policy, cost)
    rows: dict[int, Recorded] = {}
    for number, one in enumerate(outcome.batches):
        for request in one.requests:
            at_s = workload.arrival_s[request]
            rows[request] = Recorded(
                at_s, workload.tokens[request], one.start_s - at_s, one.end_s - at_s, f"pass-{number}",
                one.end_s - one.start_s, len(one.requests), one.tokens,
            )  # fmt: skip
    return Recording(policy, 1, {"model": "minilm"}, [rows[request] for request in range(100)]), outcome


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    recording, outcome = run()
    write_recording(tmp_path / "run.jsonl", recording)
    found = read_recording(tmp_path / "run.jsonl")
    assert found.requests == recording.requests
    assert found.policy == recording.policy
    assert len(found.passes()) == len(outcome.batches)
    assert read_trace(tmp_path / "run.jsonl").tokens == recording.workload.tokens


def test_a_run_that_is_as_simulated_has_no_error() -> None:
    recording, outcome = run()
    compared = compare(recording, [outcome])
    assert set(compared) == {"throughput_per_s", "mean", "p50", "p95", "p99"}
    assert all(abs(one["error"]) < 1e-9 for one in compared.values())
    assert overlay_rows(compared)[1][-1].endswith("0.0%")


def test_the_costs_of_a_run_are_found_in_its_passes() -> None:
    cost, error = fit_passes(run()[0].passes())
    assert cost.seconds(100, 8) == pytest.approx(0.11)
    assert error.p95 < 1e-6


def test_the_costs_of_cores_are_found_in_passes_that_overlap() -> None:
    recording, outcome = run(CORES, 0.020)
    assert any(after.start_s < before.end_s for before, after in pairwise(outcome.batches))
    found, error = fit_passes(recording.passes(), 2)
    assert found.seconds(50, 1) == pytest.approx(CORES.of_strategy("packed").seconds(50, 1), rel=0.02)
    assert found.chore_s == pytest.approx(0.003, rel=0.1)
    assert error.median < 0.02


def test_a_run_without_a_pause_does_not_tell_what_a_core_takes() -> None:
    with pytest.raises(ValueError, match=r"^0 of 14 measured batches were one text that ran alone.*a lower rate"):
        fit_passes(run(CORES, 0.002)[0].passes(), 2)


def test_a_pass_that_was_started_while_another_ran_shared_the_device_with_it() -> None:
    # Started at 0, 4 and 30 ms, over at 10, 20 and 40 ms.
    rows = [Recorded(at_s, 5, 0.0, took_s, f"pass-{at_s}", took_s, 1, 5)
            for at_s, took_s in ((0.0, 0.010), (0.004, 0.016), (0.030, 0.010))]  # fmt: skip
    policy = Policy("packed", BatchLimits(8, 1000), 0.0)
    passes = Recording(policy, 1, {}, rows).passes()
    assert [one.seconds for one in passes] == [0.010, 0.016, 0.010]
    assert [one.shared.busy_s for one in passes] == [(), (pytest.approx(0.006),), ()]
    assert [one.shared.next_s for one in passes] == pytest.approx([0.004, 0.026, math.inf])
    assert fit_passes(passes)[0].seconds(5, 1) == pytest.approx(0.010)  # in turn
    assert {one.shared for one in Recording(policy, 2, {}, rows).passes()} == {Shared()}


def test_sizes_that_were_captured_are_kept_with_a_run(tmp_path: Path) -> None:
    recording, _ = run()
    limits = BatchLimits(8, 1000, rungs=(64, 128), row_rungs=((1, 2), (1,)))
    write_recording(tmp_path / "run.jsonl", replace(recording, policy=replace(recording.policy, limits=limits)))
    assert read_recording(tmp_path / "run.jsonl").policy.limits == limits


def test_the_handover_is_read_off_passes_that_began_on_an_idle_device() -> None:
    rows = [Recorded(float(n), 5, 0.002, 0.012, f"pass-{n}", 0.010, 1, 5) for n in range(40)]
    policy = Policy("packed", BatchLimits(8, 1000), 0.005)
    assert Recording(policy, 1, {}, rows).handover_s() == pytest.approx(0.002)
    assert Recording(policy, 1, {}, rows[:5]).handover_s() == 0.0


@pytest.mark.parametrize(
    ("line", "change", "said"),
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
def test_a_malformed_run_is_refused_with_its_line(
    tmp_path: Path, line: int, change: dict[str, object], said: str
) -> None:
    file = tmp_path / "run.jsonl"
    write_recording(file, run()[0])
    lines = file.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=said):
        read_recording(file)


@pytest.mark.parametrize(
    ("text", "said"), [("", "line 1: not a run"), ("{}\n", "line 1: not a run"), ("x", "not JSON")]
)
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_recording(file)
