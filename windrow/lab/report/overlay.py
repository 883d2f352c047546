"""Compares a simulated run with a recorded one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from windrow.lab.costs.cost import CostModel, decode_cost
from windrow.lab.measure.figures import latencies_s, summarise
from windrow.lab.measure.recording import Recording, read_recording
from windrow.lab.measure.run_file import generates
from windrow.lab.measure.step_recording import GenerationRecording, read_generation
from windrow.lab.simulate.generation import simulate_generation
from windrow.lab.simulate.outcome import Fleet, Outcome
from windrow.lab.simulate.simulation import simulate

#: Figure -> column of the table.
HEADS = {
    "throughput_per_s": "requests/s", "tokens_per_s": "tokens/s", "mean": "mean ms", "p50": "p50 ms", "p95": "p95 ms",
    "p99": "p99 ms", "ttft_p50": "TTFT p50 ms", "ttft_p95": "TTFT p95 ms", "ttft_p99": "TTFT p99 ms",
}  # fmt: skip
SHARES = (50, 95, 99)
#: Simulations per recorded run, if the cost model has random deviations.
DRAWS = 8
Compared = dict[str, dict[str, float]]


def compare(recording: Recording | GenerationRecording, outcomes: Sequence[Outcome]) -> Compared:
    """Return ``{figure: {measured, simulated, error}}``: durations in milliseconds, errors relative to the measurement.

    Simulated figures are means over ``outcomes``. A model that generates also has tokens per second and times to the
    first token.
    """
    seen_s = measured_s(recording)
    arrived_s = np.array([one.arrival_s for one in recording.requests])
    span_s = float((arrived_s + seen_s).max() - arrived_s[0])
    measured = {"throughput_per_s": len(seen_s) / span_s, "mean": float(seen_s.mean() * 1e3), **_shares(seen_s)}
    reports = [summarise(outcome) for outcome in outcomes]
    runs = [{"throughput_per_s": report["throughput_per_s"], **report["latency_ms"]} for report in reports]
    if isinstance(recording, GenerationRecording):
        tokens = sum(one.output_tokens for one in recording.requests)
        first_s = np.array([one.first_s for one in recording.requests])
        measured |= {"tokens_per_s": tokens / span_s, **_shares(first_s, "ttft_")}
        for run, report in zip(runs, reports, strict=True):
            run["tokens_per_s"] = report["tokens_per_s"]
            run |= {f"ttft_{name}": value for name, value in report["ttft_ms"].items()}
    simulated = {name: fmean(run[name] for run in runs) for name in measured}
    return {
        name: {
            "measured": measured[name],
            "simulated": simulated[name],
            "error": simulated[name] / measured[name] - 1,
        }
        for name in HEADS
        if name in measured
    }


def _shares(seconds: np.ndarray, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}p{share}": float(np.percentile(seconds, share) * 1e3) for share in SHARES}


def overlay_rows(compared: Compared) -> list[list[str]]:
    """Return the comparison as table rows, header first."""
    return [
        ["figure", "measured", "simulated", "error"],
        *(
            [HEADS[name], f"{one['measured']:.1f}", f"{one['simulated']:.1f}", f"{one['error']:+.1%}"]
            for name, one in compared.items()
        ),
    ]


def simulate_again(
    path: Path, costs: CostModel, cost_path: Path
) -> tuple[Recording | GenerationRecording, list[Outcome]]:
    """Return the run recorded in ``path``, and simulations of its arrivals, lengths and settings with these costs.

    There are several simulations if the costs have random deviations, because a single draw would add noise to the p99
    of few requests.
    """
    if generates(path):
        run = read_generation(path)
        cost = decode_cost(costs, cost_path)
        fleet = Fleet(run.devices)
        return run, [simulate_generation(run.workload, run.policy, cost, fleet, handover_s=costs.handover_s)]
    recording = read_recording(path)
    draws = DRAWS if costs.of_strategy(recording.policy.strategy).spread else 1
    return recording, [
        simulate(recording.workload, recording.policy, costs, Fleet(recording.devices), draw=draw)
        for draw in range(draws)
    ]


def distributions(recording: Recording | GenerationRecording, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return measured and simulated latencies in seconds, by name."""
    return {"measured": measured_s(recording), "simulated": np.concatenate([latencies_s(one) for one in outcomes])}


def measured_s(recording: Recording | GenerationRecording) -> np.ndarray:
    """Return the recorded latencies in seconds."""
    return np.array([one.latency_s for one in recording.requests])
