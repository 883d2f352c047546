"""Reports of ``windrow bench serve`` and ``sweep``: figures, tables and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windrow.bench.latency_parts import STAGES, milliseconds, summarise_stages
from windrow.bench.serve.load import Answer
from windrow.lab.report.charts import Panel, distribution_panel
from windrow.lab.report.tables import TableRows, number, percent

#: Key in the report -> name in tables and plots.
TIMES = {
    "latency_ms": "latency",
    "ttft_ms": "TTFT",
    "itl_ms": "ITL",
    "queue_ms": "queue",
    "batch_wait_ms": "batch wait",
    "compute_ms": "service",
    "sent_late_ms": "sent late",
}
SHARES = ("mean", "p50", "p90", "p99", "max")
#: A server keeps up with a rate if it completes at least this share of it; the margin allows for chance.
KEPT_UP = 0.95
#: Fewest requests from which a slope is computed.
FEWEST_FOR_SLOPE = 10


def summarise(answers: Sequence[Answer], slo_s: float | None = None, slo_itl_s: float | None = None) -> dict[str, Any]:
    """Build the report of a load. Times are in milliseconds, from when each successful request was due.

    Rates are per second from the first request to the last answer. Goodput counts requests that succeeded within
    ``slo_s``; for generated text, those whose first token came within ``slo_s`` and whose later tokens were at most
    ``slo_itl_s`` apart on average.
    """
    done = [one for one in answers if one.error is None]
    failures = Counter(one.error.partition(":")[0] for one in answers if one.error is not None)
    span_s = max(one.ended_s for one in answers) - min(one.due_s for one in answers)
    stages = summarise_stages([one.metrics for one in done])
    tokens = stages.pop("tokens")
    report: dict[str, Any] = {
        "requests": len(answers),
        "succeeded": len(done),
        "failed": len(answers) - len(done),
        "failures": dict(failures),
        "first_error": next((one.error for one in answers if one.error is not None), None),
        "seconds": span_s,
        "requests_per_s": len(done) / span_s,
        "tokens_per_s": None if tokens is None else tokens / span_s,
        "latency_ms": milliseconds([one.latency_s * 1e3 for one in done]),
        **stages,
        **({"ttft_ms": milliseconds([one.answered_s * 1e3 for one in done])} if "ttft_ms" in stages else {}),
        "sent_late_ms": milliseconds([(one.sent_s - one.due_s) * 1e3 for one in answers]),
    }
    if slo_s is not None or slo_itl_s is not None:
        good = sum(is_good(one, slo_s, slo_itl_s) for one in done)
        report |= {"goodput_per_s": good / span_s, "within_slo": good / len(answers)}
    return report


def is_good(answer: Answer, slo_s: float | None, slo_itl_s: float | None) -> bool:
    """Whether a successful answer met every limit that is set."""
    itl_ms = answer.metrics.get("itl_ms")
    return (slo_s is None or answer.answered_s <= slo_s) and (
        slo_itl_s is None or itl_ms is None or itl_ms <= slo_itl_s * 1e3
    )


def share_kept_up(answers: Sequence[Answer]) -> float:
    """Return the share (0 to 1) of the offered load that the server completes; the rest is refused or queues up.

    If requests arrive at rate L and are served at rate M < L, latency grows by 1 - M / L seconds per second. M / L is
    therefore 1 minus the slope of latency over arrival time, fitted by least squares over the second half.
    """
    done = [one for one in answers if one.error is None]
    middle_s = (min(one.due_s for one in answers) + max(one.due_s for one in answers)) / 2
    late = [one for one in done if one.due_s > middle_s]
    if len(late) < FEWEST_FOR_SLOPE:
        return 0.0
    slope = float(np.polyfit([one.due_s for one in late], [one.latency_s for one in late], 1)[0])
    return min(1.0, max(0.0, 1.0 - slope)) * len(done) / len(answers)


def tables(report: Mapping[str, Any]) -> list[TableRows]:
    """Return two tables: counts and rates, and times with mean and percentiles."""
    has_slo = "goodput_per_s" in report
    slo_heads = ["good/s", "in SLO"] if has_slo else []
    counts = [
        ["requests", "failed", "requests/s", "tokens/s", *slo_heads, "batch", "padding"],
        [
            f"{report['requests']:,}", str(report["failed"]), number(report["requests_per_s"]),
            number(report["tokens_per_s"]),
            *([number(report["goodput_per_s"]), f"{report['within_slo']:.1%}"] if has_slo else []),
            number(report["mean_batch_size"]), percent(report["padding_ratio"]),
        ],
    ]  # fmt: skip
    times = [["ms", *SHARES]]
    times += [
        [name, *(number(report[key][share]) for share in SHARES)] for key, name in TIMES.items() if report.get(key)
    ]
    return [counts, times]


def failure_notes(report: Mapping[str, Any]) -> list[str]:
    """Return lines such as ``12 failed with queue_full``, and the detail of the first failure."""
    said = [f"{count} failed with {code}" for code, count in report["failures"].items()]
    return [*said, f"the first: {report['first_error']}"] if said else []


def panels(answers: Sequence[Answer]) -> list[Panel]:
    """Return plots of latency and its parts, and of requests sent and answered over time."""
    done = [one for one in answers if one.error is None]
    parts = {TIMES[stage]: [one.metrics[stage] / 1e3 for one in done if stage in one.metrics] for stage in STAGES}
    so_far = {
        name: (sorted(at_s), list(range(1, len(at_s) + 1)))
        for name, at_s in (("due", [one.due_s for one in answers]), ("answered", [one.ended_s for one in done]))
    }
    return [
        distribution_panel({"latency": [one.latency_s for one in done], **parts}),
        Panel("Requests so far", "s", "requests", so_far),
    ]


def stages_panel(reports: Mapping[str, Mapping[str, Any]]) -> Panel:
    """Return a plot with one stacked bar of mean latency parts per report."""
    parts = {
        TIMES[stage]: {name: one[stage]["mean"] for name, one in reports.items() if one[stage]} for stage in STAGES
    }
    return Panel("Mean latency, by part", "", "ms", {}, bars=parts)
