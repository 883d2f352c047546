"""Reports of runs as rows of text, for the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

TableRows = list[list[str]]


def run_rows(runs: Mapping[str, Mapping[str, Any]]) -> TableRows:
    """Return the speed of each run: requests and tokens per second, latencies, and time in the queue."""
    rows = [["run", "req/s", "tok/s", "p50 ms", "p95 ms", "p99 ms", "queue p99"]]
    for name, report in runs.items():
        row = [name, number(report["throughput_per_s"]), number(report["tokens_per_s"])]
        row += [_share(report["latency_ms"], share) for share in ("p50", "p95", "p99")]
        rows.append([*row, _share(report["queue_ms"], "p99")])
    return rows


def answer_rows(runs: Mapping[str, Mapping[str, Any]]) -> TableRows:
    """Return time to first token, time between tokens (ms) and goodput; empty if none of them is known.

    It is a separate table, because its columns and the others do not fit into 80 characters.
    """
    generates = any(report.get("ttft_ms") for report in runs.values())
    has_slo = any("within_slo" in report for report in runs.values())
    if not (generates or has_slo):
        return []
    heads = ["TTFT p50", "TTFT p99", "ITL p50", "ITL p99"] if generates else []
    rows = [["run", *heads, *(["good/s", "in SLO"] if has_slo else [])]]
    for name, report in runs.items():
        row = [name]
        if generates:
            row += [_share(report.get(kind), share) for kind in ("ttft_ms", "itl_ms") for share in ("p50", "p99")]
        rows.append(row + ([number(report["goodput_per_s"]), f"{report['within_slo']:.2%}"] if has_slo else []))
    return rows


def work_rows(runs: Mapping[str, Mapping[str, Any]]) -> TableRows:
    """Return the batches and utilisation of each run's devices."""
    rows = [["run", "busy", "passes", "batch", "padding", "again", "failed", "unserved"]]
    for name, report in runs.items():
        busy = report["utilisation"]
        row = [name, percent(sum(busy) / len(busy)), f"{report['passes']:,}", number(report["mean_batch_size"])]
        row.append(percent(report["padding_ratio"]))
        rows.append(row + [f"{report[what]:,}" for what in ("redelivered", "failed", "unserved")])
    return rows


def flow_rows(runs: Mapping[str, Mapping[str, Any]]) -> TableRows:
    """Return one row per run and flow; empty if there is only one flow."""
    rows = [
        [name, flow, str(one["requests"]), *(_share(one["latency_ms"], share) for share in ("p50", "p95", "p99"))]
        for name, report in runs.items()
        for flow, one in report.get("flows", {}).items()
    ]
    return [["run", "tenant:priority", "requests", "p50 ms", "p95 ms", "p99 ms"], *rows] if rows else []


def show_report(
    about: Mapping[str, object], tables: Iterable[tuple[str, TableRows]], notes: Iterable[str] = ()
) -> None:
    """Print facts by name, tables with their titles, and notes on the terminal."""
    console = Console()
    for name, value in about.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    for title, rows in tables:
        show(console, title, rows)
    for note in notes:
        console.print(note, markup=False, highlight=False)


def show(console: Console, title: str, rows: TableRows) -> None:
    """Print ``rows``, whose first row is the header; prints nothing without rows."""
    if not rows:
        return
    if title:
        console.print(title, style="italic", markup=False, highlight=False)
    table = _table(rows, gap=2)
    is_too_wide = console.measure(table).maximum > console.width
    console.print(_table(rows, gap=1) if is_too_wide else table)


def _table(rows: TableRows, gap: int) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for column, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if column else "left", overflow="fold", no_wrap=not column)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def number(value: float | None) -> str:
    """Format with three significant figures, values above 100 as integers, and None as ``-``."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Format a share (0 to 1) with one decimal, and None as ``-``."""
    return "-" if share is None else f"{share:.1%}"


def _share(distribution: Mapping[str, float] | None, share: str) -> str:
    return "-" if distribution is None else number(distribution[share])
