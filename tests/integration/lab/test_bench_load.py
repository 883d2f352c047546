"""The commands ``windrow bench compare``, ``serve`` and ``sweep``, with a worker that sleeps and a real API."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.tiny_llama import save_tiny_llama
from windrow.cli.app import app

pytestmark = pytest.mark.integration


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def test_compare_measures_batches_of_fixed_cost_against_single_requests(tmp_path: Path) -> None:
    file, folder = tmp_path / "report.json", tmp_path / "report"
    result = run("compare", "--engine", "fixed", "--pass-ms", 5, "--requests", 24, "--batch-size", 4, "--rounds", 1,
                 "--json", file, "--report", folder)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    contenders = json.loads(file.read_text())["contenders"]
    assert list(contenders) == ["serial", "batch-4"]
    assert contenders["serial"]["mean_batch_size"] == 1
    assert 1 < contenders["batch-4"]["mean_batch_size"] <= 4
    for contender in contenders.values():
        stages = [contender[stage]["mean"] for stage in ("queue_ms", "batch_wait_ms", "compute_ms")]
        assert sum(stages) <= contender["response_ms"]["mean"]
        assert contender["compute_ms"]["mean"] >= 5
        assert contender["failed"] == 0
    assert "serial 1.0x, batch-4" in result.stdout
    assert (folder / "report.html").read_text().count("<svg") == 4
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_compare_measures_generation_with_every_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config, file = tmp_path / "llama", tmp_path / "windrow.toml", tmp_path / "report.json"
    save_tiny_llama(model, context_tokens=128)
    config.write_text(f'[models.llama]\ntask = "generate"\nsource = "{model}"\ndtype = "float32"\n')
    monkeypatch.setenv("WINDROW_CONFIG", str(config))
    result = run("compare", "--engine", "llama", "--requests", 8, "--batch-size", 4, "--rounds", 1,
                 "--output-tokens", 4, "--json", file)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    contenders = json.loads(file.read_text())["contenders"]
    assert list(contenders) == ["serial", "static-4", "continuous-4"]
    for contender in contenders.values():
        assert contender["failed"] == 0
        assert contender["ttft_ms"]["mean"] <= contender["response_ms"]["mean"]
        assert contender["tokens_per_s"] > 0


def test_serve_sends_open_loop_and_closed_loop_load(served: int, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    url = f"http://127.0.0.1:{served}"
    for load in (["--rate", 200], ["--concurrency", 4]):
        result = run("serve", "--url", url, *load, "--requests", 40, "--slo", "30s", "--json", file)
        assert result.exit_code == 0, result.stderr
        report = json.loads(file.read_text())
        assert (report["succeeded"], report["failed"], report["within_slo"]) == (40, 0, 1.0)
        assert report["model"] == "minilm"


def test_refused_requests_are_counted_by_their_code(served: int, tmp_path: Path) -> None:
    dataset = tmp_path / "inputs.jsonl"
    dataset.write_text('{"input": "good"}\n{"input": 7}\n')
    result = run("serve", "--url", f"http://127.0.0.1:{served}", "--concurrency", 2, "--requests", 10,
               "--dataset", dataset)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "5 failed with invalid_input" in result.stdout


def test_a_sweep_reports_the_knee(served: int, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = run("sweep", "--url", f"http://127.0.0.1:{served}", "--rates", "100,50", "--seconds", 1,
               "--json", file)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    steps = json.loads(file.read_text())["steps"]
    assert [(step["rate_per_s"], step["requests"], step["failed"]) for step in steps] == [(50, 50, 0), (100, 100, 0)]
    assert "knee: " in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--batch-size", "0"], "--batch-size '0': takes whole numbers"),
        (["compare", "--strategy", "best"], "--strategy 'best'"),
        (["compare", "--engine", "nothing"], "--engine 'nothing': takes fixed, minilm"),
        (["serve"], "takes one of --rate and --concurrency"),
        (["serve", "--rate", "1", "--concurrency", "1"], "takes one of --rate and --concurrency"),
        (["serve", "--rate", "1", "--slo", "fast"], "--slo 'fast': takes a time above 0"),
        (["sweep", "--rates", "1,two"], "--rates '1,two': takes numbers above 0"),
        (["sweep", "--pattern", "square"], "--pattern 'square': takes poisson"),
    ],
)
def test_the_error_for_invalid_options_names_the_accepted_values(words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code != 0
    assert message in result.stderr
