"""Reports of runs as rows of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Rows = list[list[str]]


def run_rows(runs: Mapping[str, Mapping[str, Any]]) -> Rows:
    """How fast each run was; columns that no run has anything for are left out.

    Latencies in milliseconds; waiting, time to the first token and between tokens at their 99th percentile.
    """
    has_slo = any("goodput_per_s" in report for report in runs.values())
    generates = any(report.get("ttft_ms") for report in runs.values())
    heads = ["run", "req/s", "tok/s", "p50", "p95", "p99", "queue"]
    heads += ["TTFT", "ITL"] if generates else []
    heads += ["good/s", "in SLO"] if has_slo else []
    rows = [heads]
    for name, report in runs.items():
        row = [name, number(report["throughput_per_s"]), number(report["tokens_per_s"])]
        row += [_share(report["latency_ms"], share) for share in ("p50", "p95", "p99")]
        row.append(_share(report["queue_ms"], "p99"))
        row += [_share(report.get(kind), "p99") for kind in ("ttft_ms", "itl_ms")] if generates else []
        row += [number(report["goodput_per_s"]), f"{report['within_slo']:.2%}"] if has_slo else []
        rows.append(row)
    return rows


def work_rows(runs: Mapping[str, Mapping[str, Any]]) -> Rows:
    """What the devices of each run did."""
    rows = [["run", "busy", "passes", "batch", "padding", "again", "failed", "unserved"]]
    for name, report in runs.items():
        busy = report["utilisation"]
        row = [name, f"{sum(busy) / len(busy):.1%}", f"{report['passes']:,}", number(report["mean_batch_size"])]
        row.append(f"{report['padding_ratio']:.1%}")
        rows.append(row + [f"{report[what]:,}" for what in ("redelivered", "failed", "unserved")])
    return rows


def flow_rows(runs: Mapping[str, Mapping[str, Any]]) -> Rows:
    """A row a run and flow; empty where there is one flow."""
    rows = [
        [name, flow, str(one["requests"]), *(_share(one["latency_ms"], share) for share in ("p50", "p95", "p99"))]
        for name, report in runs.items()
        for flow, one in report.get("flows", {}).items()
    ]
    return [["run", "tenant:priority", "requests", "p50 ms", "p95 ms", "p99 ms"], *rows] if rows else []


def show(console: Console, title: str, rows: Rows) -> None:
    """Print ``rows``, heads first; nothing where there are none."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if column else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def number(value: float) -> str:
    """Three significant figures, and whole above 100."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(distribution: Mapping[str, float] | None, share: str) -> str:
    return "-" if distribution is None else number(distribution[share])
