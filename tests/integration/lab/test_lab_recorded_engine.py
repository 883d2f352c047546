"""Record configured models with the real queue and loop, then fit their costs and simulate the runs."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.tiny_llama import save_tiny_llama
from windrow.cli.app import app
from windrow.lab.measure.recording import read_recording
from windrow.lab.measure.step_recording import read_generation
from windrow.scheduler.config.values import DEFAULT_MODELS

pytestmark = pytest.mark.integration


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "llama").mkdir()
    save_tiny_llama(folder, context_tokens=256)
    file = tmp_path / "windrow.toml"
    file.write_text(
        f'[models.minilm]\ntask = "embed"\nsource = "{DEFAULT_MODELS["minilm"]["source"]}"\nmax_batch_size = 8\n'
        f'[models.llama]\ntask = "generate"\nsource = "{folder}"\nmax_batch_size = 8\n'
    )
    monkeypatch.setenv("WINDROW_CONFIG", str(file))
    return file


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_generation_model_is_recorded_by_steps_and_can_be_simulated(config: Path, tmp_path: Path) -> None:
    file, cost = str(tmp_path / "run.jsonl"), str(tmp_path / "cost.json")
    result = run("bench", "record", file, "--engine", "llama", "--rate", "100", "--requests", "30", "--scale", "0.1")
    assert result.exit_code == 0, result.stderr
    recording = read_generation(Path(file))
    assert len(recording.requests) == 30
    assert recording.policy.name == "chunked"
    assert recording.policy.max_batch_size == 8
    # Steps compute each prompt once, and one token per decoding sequence.
    output = sum(request.output_tokens for request in recording.requests)
    prompts = sum(request.tokens for request in recording.requests)
    assert sum(step.tokens for step in recording.steps) == prompts + output - 30
    assert max(step.sequences for step in recording.steps) <= 8
    assert all(request.queue_s <= request.first_s for request in recording.requests)
    end_s = max(request.arrival_s + request.latency_s for request in recording.requests)
    assert sum(step.seconds for step in recording.steps) < end_s + 1
    assert run("tune", "--from", file, "--out", cost).exit_code == 0
    simulated = run("simulate", "--against", file, "--cost", cost)
    assert simulated.exit_code == 0, simulated.stderr
    assert "TTFT p99 ms" in simulated.stdout


def test_a_batch_model_is_recorded_by_batches(config: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "run.jsonl")
    result = run(
        "bench", "record", file, "--engine", "minilm", "--rate", "50", "--requests", "20", "--max-wait-ms", "auto"
    )
    assert result.exit_code == 0, result.stderr
    recording = read_recording(Path(file))
    assert sum({request.pass_id: request.pass_size for request in recording.requests}.values()) == 20
    assert recording.passes()
    assert recording.policy.max_wait_s is None
    assert recording.policy.limits.max_batch_size == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "unknown"], "--engine 'unknown': takes minilm, llama"),
        (["--engine", "llama"], "takes a --scale below 0."),
        (["--engine", "llama", "--strategy", "packed"], "strategy"),
        (["--engine", "llama", "--max-wait-ms", "5"], "--max-wait-ms takes a model that does not generate text"),
        (["--engine", "minilm", "--scale", "0.5"], "--scale takes an --engine that generates"),
        (["--scale", "0.5"], "--scale takes an --engine that generates"),
        (["--strategy", "continuous"], "--strategy 'continuous': takes none"),
        (["--pattern", "square"], "--pattern 'square': takes poisson"),
    ],
)
def test_invalid_options_are_refused_before_the_recording_starts(
    config: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = run("bench", "record", str(tmp_path / "run.jsonl"), *options)
    assert result.exit_code != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run.jsonl").exists()
