"""Prints the reports as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show_http(console: Console, report: dict[str, Any]) -> None:
    """Print the report of `benchmarks.http.run.summarise`."""
    table = _table(
        "HTTP, closed loop", "contender", "texts/s", "tokens/s", "p50 ms", "p99 ms", "failed", "CPU ms per request"
    )
    for name, contender in report["contenders"].items():
        table.add_row(
            name, f"{contender['texts_per_s']:.1f}", f"{contender['tokens_per_s']:.0f}", _number(contender["p50_ms"]),
            _number(contender["p99_ms"]), str(contender["failed"]),
            ", ".join(f"{label} {used_ms:.2f}" for label, used_ms in contender["cpu_ms_per_request"].items()) or "-",
        )  # fmt: skip
    console.print(table)
    targets = report["targets"]
    console.print(f"Windrow / engine alone: {report['ratio_to_bound']:.3f} (target {targets['ratio_to_bound']})")
    console.print(f"Windrow / plain Celery: {report['ratio_to_celery']:.2f} (target {targets['ratio_to_celery']})")
    for number, device in enumerate(report["device"], 1):
        console.print(
            f"round {number}: device busy {device['busy_ratio']:.1%}, {device['batches']} batches of "
            f"{device['mean_size']:.1f} texts, gaps p50 {device['gap_p50_ms']:.1f} p90 {device['gap_p90_ms']:.1f} ms, "
            f"{device['tokens_per_busy_s']:.0f} tokens/s while busy"
        )


def show_figures(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of ``name, value, unit, target``."""
    table = _table(title, "figure", "value", "unit", "target")
    for row in rows:
        table.add_row(row["name"], f"{row['value']:,.{row.get('digits', 2)}f}", row["unit"], row.get("target") or "-")
    console.print(table)


def show_generation(console: Console, report: dict[str, Any]) -> None:
    """Print the report of `benchmarks.generate.run.run_generate`."""
    table = _table(
        f"{report['requests']} requests on {report['device']}", "contender", "tokens/s", "mean latency s",
        "TTFT p50 s", "p99 s", "ITL p50 ms", "p99 ms", "steps", "step ms", "rows",
    )  # fmt: skip
    for name, contender in report["contenders"].items():
        step_ms = contender["busy_s"] / contender["steps"] * 1e3 if contender.get("steps") else None
        table.add_row(
            name, f"{contender['tokens_per_s']:,.0f}", f"{contender['mean_latency_s']:.2f}",
            *(_scaled(contender.get(key), by) for key, by in (
                ("ttft_p50_s", 1), ("ttft_p99_s", 1), ("itl_p50_s", 1e3), ("itl_p99_s", 1e3), ("steps", 1),
            )),
            _scaled(step_ms, 1), _scaled(contender.get("mean_rows"), 1),
        )  # fmt: skip
    console.print(table)
    for name, value in report["ratios"].items():
        console.print(f"{name}: {value:.2f} times")
    if report["floor_step_s"] is not None:
        console.print(
            f"a continuous step takes {report['step_s'] * 1e3:.2f} ms; reading the weights and the KV cache "
            f"alone takes {report['floor_step_s'] * 1e3:.2f} ms"
        )


def show_faults(console: Console, report: dict[str, Any]) -> None:
    """Print the report of `benchmarks.faults.scenarios.run_faults`."""
    for scenario in report["scenarios"].values():
        show_figures(console, scenario["scenario"], scenario["figures"])
        for promise in scenario["broken"]:
            console.print(f"BROKEN: {promise}", style="bold", markup=False)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right" if not name.startswith("CPU") else "left", overflow="fold")
    return table


def _scaled(value: float | None, by: float) -> str:
    return "-" if value is None else f"{value * by:,.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
