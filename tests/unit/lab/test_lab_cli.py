"""The output, files and errors of the laboratory's commands, which run in this process."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windrow.cli.app import app
from windrow.lab.simulate.traces import read_trace

SAMPLES = Path(__file__).parents[3] / "examples/traces"
MOONCAKE = str(SAMPLES / "mooncake.jsonl")
SMALL = ["--requests", "300", "--rate", "60"]


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_simulation_reports_every_strategy_in_json() -> None:
    result = run("simulate", *SMALL, "--strategy", "all", "--slo", "300ms", "--json")
    assert result.exit_code == 0, result.stderr
    runs = json.loads(result.stdout)["runs"]
    assert set(runs) == {"none", "static", "dynamic", "bucket", "packed"}
    for report in runs.values():
        assert report["succeeded"] == 300
        assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
        assert report["goodput_per_s"] <= report["throughput_per_s"]
    assert runs["packed"]["padding_ratio"] == 0 < runs["static"]["padding_ratio"]


def test_text_generation_reports_first_tokens_and_gaps_of_every_policy() -> None:
    result = run(
        "simulate", "--generate", "--requests", "60", "--strategy", "all", "--slo", "1s", "--slo-itl", "1s", "--json"
    )
    assert result.exit_code == 0, result.stderr
    runs = json.loads(result.stdout)["runs"]
    assert set(runs) == {"none", "static", "continuous", "chunked"}
    for report in runs.values():
        assert report["succeeded"] == 60
        assert report["ttft_ms"]["p50"] > report["itl_ms"]["p50"] > 0
        assert report["within_slo"] <= 1


def test_a_simulation_is_repeatable() -> None:
    first, second = (run("simulate", *SMALL, "--json", "--seed", "4").stdout for _ in range(2))
    assert first == second


def test_strategy_all_can_be_combined_with_a_named_strategy() -> None:
    result = run("simulate", *SMALL, "--strategy", "packed", "--strategy", "all", "--json")
    assert len(json.loads(result.stdout)["runs"]) == 5


def test_a_simulation_prints_the_failures_and_the_slo() -> None:
    result = run("simulate", *SMALL, "--fail", "1s:0:100ms", "--lease", "2s", "--slo", "300ms", "--json")
    report = json.loads(result.stdout)
    assert (report["failures"], report["slo"]) == ("1s:0:100ms; requeued after 2s, at most 3 attempts", "300ms")


def test_a_simulation_prints_tables_and_tenants() -> None:
    result = run("simulate", *SMALL, "--tenant", "acme", "--tenant", "beta:high:0.3:2", "--fail", "1s:0:100ms",
               "--max-wait-ms", "auto")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "packed" in result.stdout
    assert "beta:high" in result.stdout


@pytest.mark.parametrize("name", ["azure_llm.csv", "burstgpt.csv", "mooncake.jsonl", "vidur.csv"])
def test_a_trace_is_simulated(name: str) -> None:
    result = run("simulate", "--trace", str(SAMPLES / name), "--devices", "2", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["runs"]["packed"]["unserved"] == 0


def test_a_report_is_one_self_contained_page_and_a_picture(tmp_path: Path) -> None:
    result = run("simulate", *SMALL, "--report", str(tmp_path / "r"))
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "r/report.html").read_text()
    assert page.count("<svg") == 5
    assert "viewport" in page
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page.replace("xlink:href", "href"))
    assert not re.search(r"url\((?!#)|@import", page)
    assert (tmp_path / "r/report.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_names_devices_and_settings(tmp_path: Path) -> None:
    result = run("plan", "--p99", "300ms", "--rate", "100", "--requests", "400", "--strategy", "packed",
               "--report", str(tmp_path), "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["best"]["devices"] >= 1
    assert plan["best"]["latency_ms"] <= 300
    assert plan["front"][0] == plan["best"]
    assert (tmp_path / "report.html").is_file()


def test_a_plan_for_simultaneous_requests_has_no_rate() -> None:
    words = ["plan", "--p99", "300ms", "--requests", "1", "--strategy", "packed"]
    assert re.search(r"best +1 +- ", run(*words).stdout)
    assert json.loads(run(*words, "--json").stdout)["best"]["rate_per_s"] is None


def test_a_plan_for_a_given_number_of_devices_names_the_rate() -> None:
    result = run("plan", "--p95", "1s", "--devices", "1", "--requests", "300", "--strategy", "none", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["best"]["rate_per_s"] > 1


def test_a_plan_for_text_generation_names_devices_and_settings_and_draws_one_front_per_slo(tmp_path: Path) -> None:
    words = [
        "plan",
        "--generate",
        "--requests",
        "200",
        "--ttft-p99",
        "100ms",
        "--itl-p99",
        "5ms",
        "--strategy",
        "chunked",
    ]
    result = run(*words, "--rate", "300", "--json", "--report", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    best = json.loads(result.stdout)["best"]
    assert best["strategy"] == "continuous"
    assert best["figures_ms"]["TTFT p99"] <= 100
    assert best["figures_ms"]["ITL p99"] <= 5
    assert {"devices", "max_batch_size", "max_batch_tokens", "prefill_chunk_tokens"} <= set(best)
    assert (tmp_path / "report.html").read_text().count("<svg") == 2
    held = run(*words, "--devices", "1")
    assert held.exit_code == 0, held.stderr
    assert "TTFT p99" in held.stdout


@pytest.mark.parametrize(("p99", "kind"), [("400ms", []), ("3s", ["--generate", "--strategy", "continuous"])])
def test_too_few_devices_exit_with_1_and_the_latency_that_they_reach(p99: str, kind: list[str]) -> None:
    words = ["--p99", p99, "--rate", "5000", "--most-devices", "2", "--requests", "400", *kind]
    result = run("plan", *words)
    assert result.exit_code == 1
    reached = r"the best result is p99 [\d,.]+ ms,(?: but [a-z ]+,)? with strategy = \w+, max_batch_size = "
    assert re.search(rf"up to 2 devices do not meet p99 within .*{reached}", result.stderr)
    assert json.loads(run("plan", *words, "--json").stdout)["nearest"]["devices"] == 2


def test_an_unreachable_slo_exits_with_1_and_the_best_reachable_latency() -> None:
    result = run("plan", "--p99", "10us", "--requests", "300")
    assert result.exit_code == 1
    assert re.search(r"no number of devices meets p99 within 0\.01 ms.*[\d.]+ ms .*best reachable", result.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulate", "--pattern", "square"], "--pattern is 'square'; accepted are poisson"),
        (["simulate", "--strategy", "best"], "--strategy 'best': takes none"),
        (["simulate", "--rate", "-1"], "at a rate above 0"),
        (["simulate", "--rate", "nan"], "at a rate above 0"),
        (["simulate", "--slo", "fast"], "--slo 'fast': takes a time"),
        (["simulate", "--slo", "0ms"], "--slo '0ms'"),
        (["simulate", "--fail", "1s"], "--fail '1s': takes WHEN:DEVICE:HOW_LONG"),
        (["simulate", "--fail", "1s:7:1s"], "a failure of device 7"),
        (["simulate", "--tenant", "a:urgent"], "--tenant 'a:urgent': takes NAME"),
        (["simulate", "--tenant", "a:high:-1"], "--tenant 'a:high:-1'"),
        (["simulate", "--tenant", "a", "--tenant", "b", "--tenant", "a:normal:2"], "a:normal is given 2 times"),
        (["simulate", "--median-tokens", "inf"], "lengths have median inf"),
        (["simulate", "--rate", "1e-300"], "arrivals are seconds from 0 to"),
        (["simulate", "--slo-itl", "1ms"], "--slo-itl does nothing without --generate"),
        (["simulate", "--median-output", "5"], "--median-output does nothing without --generate"),
        (["simulate", "--generate", "--max-wait-ms", "5"], "--max-wait-ms does nothing with --generate"),
        (
            ["simulate", "--generate", "--prefill-chunk", "64"],
            "--prefill-chunk does nothing without --strategy chunked",
        ),
        (["simulate", "--lease", "5s"], "--lease does nothing without --fail"),
        (["simulate", "--trace", MOONCAKE, "--pattern", "poisson"], "--pattern does nothing with --trace"),
        (["simulate", "--trace", MOONCAKE, "--max-tokens", "9"], "--max-tokens does nothing with --trace"),
        (["simulate", "--trace", MOONCAKE, "--seed", "1"], "--seed does nothing with a trace that leaves nothing to"),
        (
            ["simulate", "--trace", MOONCAKE, "--generate", "--max-output", "9"],
            "--max-output does nothing with a trace",
        ),
        (["simulate", "--trace", sys.executable], "not text in UTF-8; accepted formats are azure"),
        (["simulate", "--against", MOONCAKE], "--requests does nothing with --against"),
        (["bench", "compare", "--pass-ms", "5"], "--pass-ms does nothing without --engine fixed"),
        (
            ["bench", "compare", "--engine", "fixed", "--output-tokens", "5"],
            "--output-tokens does nothing without text",
        ),
        (
            ["bench", "compare", "--engine", "fixed", "--json", "/nowhere/at/all"],
            "/nowhere/at/all: takes a file",
        ),
        (["simulate", "--max-wait-ms", "-1"], "--max-wait-ms '-1': takes milliseconds"),
        (["simulate", "--max-wait-ms", "soon"], "--max-wait-ms 'soon'"),
        (["simulate", "--generate", "--strategy", "packed"], "--strategy 'packed': takes none, static, continuous"),
        (["simulate", "--generate", "--cache-tokens", "16"], "the cache holds 16"),
        (["plan"], "takes one of --p99, --p95 and --p50"),
        (["plan", "--p99", "1s", "--p50", "1s"], "takes one of"),
        (["plan", "--p99", "1s", "--devices", "2", "--rate", "50"], "--rate does nothing with --devices"),
        (
            ["plan", "--p99", "1s", "--devices", "2", "--most-devices", "4"],
            "--most-devices does nothing",
        ),
        (["plan", "--ttft-p99", "1s"], "--ttft-p99 does nothing without --generate"),
        (["plan", "--p99", "1s", "--cache-tokens", "99"], "--cache-tokens does nothing without --generate"),
        (
            ["plan", "--generate", "--p99", "1s", "--max-batch-tokens", "99"],
            "--max-batch-tokens does nothing",
        ),
        (["plan", "--generate", "--p99", "1s", "--strategy", "packed"], "--strategy 'packed': takes none, static"),
        (["plan", "--generate", "--itl-p99", "soon"], "--itl-p99 'soon': takes a time"),
        (["plan", "--p99", "1s", "--report", "/proc/none/x"], "--report /proc/none/x: takes a writable folder"),
        (["simulate", "--report", "/proc/none/x"], "--report /proc/none/x: takes a writable folder"),
    ],
)
def test_an_invalid_command_line_exits_with_2_and_the_accepted_values(words: list[str], message: str) -> None:
    result = run(*words, "--requests", "20")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("command", [["simulate"], ["plan", "--p99", "1s"], ["bench", "compare", "--engine", "fixed"]])
def test_a_report_folder_that_is_not_writable_is_refused_before_the_run(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken/report.png").mkdir(parents=True)
    for folder, message in {
        tmp_path / "file/below": "takes a writable folder",
        Path("/proc/nothing"): "takes a writable folder",
        tmp_path / ("long" * 99): "File name too long",
        tmp_path / "taken": "report.png in it is a folder",
    }.items():
        result = run(*command, "--report", str(folder), "--requests", "20")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--report {folder}: " in result.stderr
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_trace_without_generate_warns_that_completion_lengths_are_ignored() -> None:
    assert "completion lengths are ignored" in run("simulate", "--trace", MOONCAKE).stderr
    assert "ignored" not in run("simulate", "--trace", MOONCAKE, "--generate").stderr


def test_static_pads_a_trace_to_the_length_of_its_longest_input() -> None:
    result = run("simulate", "--trace", str(SAMPLES / "vidur.csv"), "--strategy", "static", "--json")
    lengths = read_trace(SAMPLES / "vidur.csv").tokens
    padding = json.loads(result.stdout)["runs"]["static"]["padding_ratio"]
    assert padding == pytest.approx(1 - sum(lengths) / (len(lengths) * max(lengths)))


def test_a_malformed_trace_exits_with_2_and_the_line_number(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.1,5,5\n0.2,five,5\n")
    result = run("simulate", "--trace", str(file))
    assert result.exit_code == 2
    assert "line 3" in result.stderr
