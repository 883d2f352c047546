"""A simulated run laid over a recorded one."""

from __future__ import annotations

from typing import Any

import numpy as np

from scheduler.lab.measure import latencies_s, summarise
from scheduler.lab.recording import Recording
from scheduler.lab.simulation import Outcome

FIGURES = ("throughput_per_s", "mean", "p50", "p95", "p99")


def compare(recording: Recording, outcome: Outcome) -> dict[str, dict[str, float]]:
    """``{figure: {measured, simulated, error}}``; durations in milliseconds, errors as shares of what was measured."""
    seen_s = measured_s(recording)
    ends_s = np.array([one.arrival_s for one in recording.requests]) + seen_s
    measured = {
        "throughput_per_s": len(seen_s) / float(ends_s.max() - recording.requests[0].arrival_s),
        "mean": float(seen_s.mean() * 1e3),
        **{f"p{share}": float(np.percentile(seen_s, share) * 1e3) for share in (50, 95, 99)},
    }
    report = summarise(outcome)
    simulated = {"throughput_per_s": report["throughput_per_s"], **report["latency_ms"]}
    return {
        name: {
            "measured": measured[name],
            "simulated": simulated[name],
            "error": simulated[name] / measured[name] - 1,
        }
        for name in FIGURES
    }


def overlay_rows(compared: dict[str, dict[str, float]]) -> list[list[str]]:
    """As a table, its heads first."""
    names = {"throughput_per_s": "requests/s", "mean": "mean ms", "p50": "p50 ms", "p95": "p95 ms", "p99": "p99 ms"}
    return [
        ["figure", "measured", "simulated", "error"],
        *(
            [names[name], f"{one['measured']:.1f}", f"{one['simulated']:.1f}", f"{one['error']:+.1%}"]
            for name, one in compared.items()
        ),
    ]


def distributions(recording: Recording, outcome: Outcome) -> dict[str, Any]:
    """Latencies in seconds of both, by name."""
    return {"measured": measured_s(recording), "simulated": latencies_s(outcome)}


def measured_s(recording: Recording) -> np.ndarray:
    """Latencies that were recorded."""
    return np.array([one.latency_s for one in recording.requests])
