"""Decode steps: timing on a tiny Llama, recording, fitting of costs, and comparison with a simulation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.tiny_llama import VOCABULARY, save_tiny_llama
from windrow.cli.app import app
from windrow.lab.costs.cost import CostModel, DecodeCost, StepRuns, read_cost, write_cost
from windrow.lab.costs.fitting import TimedStep, fit_steps
from windrow.lab.measure.step_recording import GenerationRecording, RecordedAnswer, read_generation, write_generation
from windrow.lab.report.overlay import compare, simulate_again
from windrow.lab.simulate.generation import GenerationPolicy, simulate_generation
from windrow.lab.simulate.traces import read_trace
from windrow.lab.simulate.workload import Workload
from windrow.lab.tune.step_timing import TimedSteps
from windrow.lab.tune.steps import DecodePoint, Rig, StepTimings, recommend_steps, time_steps

COST = DecodeCost(0.010, 0.0001, 0.0005, 1e-6, 0.005)
NOT_CAPTURED = StepRuns()
POLICY = GenerationPolicy("chunked", 8, 4096, 64_000, 16, 512)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def recorded(runs: StepRuns = NOT_CAPTURED) -> GenerationRecording:
    """Return a simulated run as a recording, whose steps have exactly the given cost."""
    workload = Workload(
        [0.05 * number for number in range(80)],
        [10 + number for number in range(80)],
        [5 + number % 9 for number in range(80)],
    )
    cost = DecodeCost(0.010, 0.0001, 0.0005, 1e-6, 0.005, runs)
    outcome = simulate_generation(workload, POLICY, cost, handover_s=0.002)
    answers = [
        RecordedAnswer(at_s, tokens, output, 0.002, first_s - at_s, end_s - at_s)
        for at_s, tokens, output, first_s, end_s in zip(
            workload.arrival_s, workload.tokens, workload.output_tokens, outcome.first_s, outcome.end_s, strict=True
        )
    ]
    shapes = [(8 + 37 * n % 300, 1 + n % 8, 50 * n, n % 3 == 0) for n in range(200)]
    steps = [TimedStep(*shape, cost.seconds(*shape[:3], reads=shape[3])) for shape in shapes]
    return GenerationRecording(POLICY, 1, runs, {"model": "tiny"}, answers, steps)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from windrow.scheduler.config.model_settings import ModelSettings
    from windrow.worker.engines.loading import load_engine

    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=256)
    return load_engine(
        "tiny", ModelSettings(task="generate", source=str(folder), max_batch_size=8, dtype="float32", page_tokens=16)
    )


def test_a_timed_engine_reports_the_computed_and_cached_tokens_of_each_step(engine: Any) -> None:
    steps: list[TimedStep] = []
    timed = TimedSteps(engine, steps.append)
    for name, tokens, answer in (("a", 20, 4), ("b", 30, 2)):
        (prepared,) = timed.prepare(
            [{"prompt_ids": [5 + len(name)] * tokens}], [{"max_tokens": answer, "ignore_eos": True}]
        )
        timed.add(name, prepared)
    while (handle := timed.step()) is not None:
        timed.collect(handle)
    # The prefill of both prompts, one token for each sequence, then two tokens for the remaining sequence.
    assert [(step.tokens, step.sequences, step.cached_tokens, step.reads) for step in steps] == [
        (50, 2, 50, True), (2, 2, 52, False), (1, 1, 22, False), (1, 1, 23, False),
    ]  # fmt: skip
    assert all(step.seconds > 0 for step in steps)
    assert timed.busy_s > 0


def test_tuning_times_several_cache_sizes_and_prompt_lengths_and_leaves_the_engine_empty(
    engine: Any,
) -> None:
    progress: list[str] = []
    timings = time_steps(Rig(engine, VOCABULARY, 2048), 20.0, progress.append)
    assert timings.left_out == 0
    assert {point.sequences for point in timings.curve} == {1, 2, 4, 8}
    assert len({round(point.cached_tokens / point.sequences, -1) for point in timings.curve}) > 2
    assert len(progress) == len(timings.curve)
    assert len({step.tokens for step in timings.steps if step.reads}) > 3
    assert {step.reads for step in timings.steps} == {True, False}
    cost, error = fit_steps(timings.steps)
    assert cost.seconds(1, 1, 100, reads=False) > 0
    assert error.passes == len(timings.steps)
    assert engine.step() is None
    assert engine.cache_use().pages_taken == 0


def test_if_time_runs_out_the_omitted_measurements_are_counted(engine: Any) -> None:
    timings = time_steps(Rig(engine, VOCABULARY, 2048), 0.0, lambda text: None)
    assert len(timings.curve) == 1
    assert timings.left_out > 0


def test_the_smallest_settings_with_about_the_best_throughput_are_recommended() -> None:
    curve = [DecodePoint(count, 100 * count, 0.0, 0.0) for count in (1, 2, 4, 8, 16, 32, 64)]
    bound = DecodeCost(
        0.010, 1e-5, 0.001, 0.0, 0.0005
    )  # from 16 sequences, larger batches no longer increase throughput
    recommended = recommend_steps(bound, StepTimings([], curve, 0), 16384)
    assert recommended == {"max_batch_size": 64, "prefill_chunk_tokens": 1024}
    assert recommend_steps(DecodeCost(0.0001, 0, 0.01), StepTimings([], curve, 0), 300) == {
        "max_batch_size": 1, "prefill_chunk_tokens": 300,
    }  # fmt: skip


@pytest.mark.parametrize("runs", [StepRuns(), StepRuns(1, (2, 4, 8), (64, 256))])
def test_a_recording_round_trips_and_its_steps_determine_the_costs(tmp_path: Path, runs: StepRuns) -> None:
    run = recorded(runs)
    write_generation(tmp_path / "run.jsonl", run)
    found = read_generation(tmp_path / "run.jsonl")
    assert (found.requests, found.steps, found.policy, found.runs) == (run.requests, run.steps, POLICY, runs)
    assert found.handover_s() == pytest.approx(0.002)
    assert list(read_trace(tmp_path / "run.jsonl").tokens) == list(run.workload.tokens)
    result = invoke("tune", "--from", str(tmp_path / "run.jsonl"), "--out", str(tmp_path / "cost.json"), "--json")
    assert result.exit_code == 0, result.stderr
    cost = read_cost(tmp_path / "cost.json")
    assert cost.decode is not None
    assert cost.padded is None
    assert cost.decode.runs == runs
    assert cost.decode.seconds(30, 4, 900, reads=True) == pytest.approx(COST.seconds(30, 4, 900, reads=True), rel=1e-3)
    again = simulate_again(tmp_path / "run.jsonl", cost, tmp_path / "cost.json")
    assert all(abs(figure["error"]) < 0.02 for figure in compare(*again).values())


def test_a_few_stalled_steps_do_not_change_the_fitted_costs() -> None:
    shapes = [(1 + n % 8, 1 + n % 8, 100 + n % 8, False) for n in range(4000)] + [(60, 5, 400, True)] * 40
    steps = [TimedStep(*shape, COST.seconds(*shape[:3], reads=shape[3])) for shape in shapes]
    stalled = [replace(step, seconds=step.seconds * (50 if n % 33 == 0 else 1)) for n, step in enumerate(steps)]
    run = replace(recorded(), steps=stalled)
    found, _ = fit_steps(run.typical_steps())
    assert found.seconds(4, 4, 103, reads=False) == pytest.approx(COST.seconds(4, 4, 103, reads=False), rel=0.01)
    assert found.seconds(60, 5, 400, reads=True) == pytest.approx(COST.seconds(60, 5, 400, reads=True), rel=0.01)


def test_simulate_against_a_recording_also_compares_the_time_to_the_first_token(tmp_path: Path) -> None:
    write_generation(tmp_path / "run.jsonl", recorded())
    write_cost(tmp_path / "cost.json", CostModel(None, None, COST, 0.002))
    words = ["simulate", "--generate", "--against", str(tmp_path / "run.jsonl"), "--cost", str(tmp_path / "cost.json")]
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.stderr
    compared = json.loads(result.stdout)["compared"]
    assert {"tokens_per_s", "ttft_p50", "ttft_p95", "ttft_p99", "p50", "p95", "p99"} <= set(compared)
    assert all(abs(figure["error"]) < 1e-6 for figure in compared.values())
    assert "TTFT p99 ms" in invoke(*words).stdout


def test_generation_costs_are_refused_for_a_simulation_of_batches(tmp_path: Path) -> None:
    write_generation(tmp_path / "run.jsonl", recorded())
    write_cost(tmp_path / "cost.json", CostModel(None, None, COST, about={"model": "tiny"}))
    result = invoke("simulate", "--cost", str(tmp_path / "cost.json"), "--requests", "20")
    assert result.exit_code == 2
    assert "the costs of 'tiny' are those of text generation" in result.stderr


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, {"windrow_run": 7}, "line 1: not a run that"),
        (1, {"strategy": "packed"}, "line 1: policy: unknown policy 'packed'"),
        (1, {"max_batch_size": 0}, "line 1: policy: takes max_batch_size"),
        (1, {"steps": [[1, 1, 1, True, 0.0]]}, "line 1: step .*more than 0 s"),
        (1, {"steps": [[1, 1]]}, "line 1: not enough values"),
        (1, {"runs": {"ahead": 2}}, "line 1: runs: ahead 2: takes 0 or 1"),
        (4, {"latency_s": -1}, r"line 4: latency_s: .*greater than or equal to 0 \(got -1\)"),
        (4, {"output_tokens": 0}, "line 4: output_tokens: .*greater than or equal to 1"),
        (4, {"first_s": 99.0}, r"line 4: its first token came after 99\.0 s"),
        (4, {"arrival_s": 0.0}, "line 4: arrives before"),
    ],
)
def test_a_malformed_recording_is_refused_with_its_line(
    tmp_path: Path, line: int, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "run.jsonl"
    write_generation(file, recorded())
    lines = file.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_generation(file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "/proc/none/cost.json"], "--out /proc/none/cost.json: cannot be written"),
        (["minilm", "--from", "RUN"], "takes MODEL or --from, not both"),
        (["--from", "RUN", "--from", "BATCHES"], "takes runs of one model"),
        (["--from", "STEPLESS"], "the run has no steps"),
    ],
)
def test_tune_refuses_invalid_options_before_it_measures(tmp_path: Path, words: list[str], message: str) -> None:
    from windrow.lab.measure.recording import Recorded, Recording, write_recording
    from windrow.lab.simulate.device import Policy
    from windrow.scheduler.core.planning import BatchLimits

    write_generation(tmp_path / "RUN", recorded())
    write_generation(tmp_path / "STEPLESS", GenerationRecording(POLICY, 1, StepRuns(), {}, recorded().requests, []))
    recorded_request = Recorded(0.0, 5, 0.001, 0.01, "pass-1", 0.009, 1, 5)
    write_recording(
        tmp_path / "BATCHES", Recording(Policy("packed", BatchLimits(8, 1000), 0.005), 1, {}, [recorded_request])
    )
    paths = {name: str(tmp_path / name) for name in ("RUN", "BATCHES", "STEPLESS")}
    out = [] if "--out" in words else ["--out", str(tmp_path / "cost.json")]
    result = invoke("tune", *(paths.get(word, word) for word in words), *out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "cost.json").exists()
