"""Report of `windrow bench compare`: figures, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from windrow.bench.compare.queue_users import UserTurn
from windrow.bench.compare.run import SERIAL, Contender, Plan
from windrow.bench.latency_parts import STAGES, milliseconds, summarise_stages
from windrow.bench.programs import BenchFailed
from windrow.lab.report.charts import Panel, distribution_panel
from windrow.lab.report.tables import TableRows, number, percent

#: Key in the report -> column of the table.
HEADS = {"queue_ms": "queue", "batch_wait_ms": "batch wait", "compute_ms": "service", "response_ms": "response"}

#: For generated text: time to the first token, and between tokens.
FIRST_HEADS = {"ttft_ms": "TTFT", "itl_ms": "ITL"}


def summarise(
    plan: Plan, turns: Mapping[str, Sequence[UserTurn]], engines: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Build the report: rates are medians over rounds, times are over all rounds, speedups are per round.

    Raises `BenchFailed` if no request of a contender succeeded.
    """
    serial_per_s = _rates(turns[SERIAL])
    return {
        "engine": dict(plan.engine),
        "device": engines[SERIAL]["device"],
        "max_wait_ms": plan.max_wait_ms,
        "users": plan.users,
        "rounds": plan.rounds,
        "contenders": {
            one.name: _contender(one, turns[one.name], serial_per_s, engines[one.name]) for one in plan.contenders
        },
    }


def _contender(
    contender: Contender, turns: Sequence[UserTurn], serial_per_s: Sequence[float], engine: Mapping[str, Any]
) -> dict[str, Any]:
    metrics = [one for turn in turns for one in turn.metrics]
    errors = [error for turn in turns for error in turn.errors]
    if not metrics:
        raise BenchFailed(f"{contender.name}: no request succeeded; the first: {errors[0]}")
    stages = summarise_stages(metrics)
    tokens, took_s = stages.pop("tokens"), sum(turn.took_s for turn in turns)
    return {
        **{name: value for name, value in asdict(contender).items() if name != "name"},
        "strategy_note": engine["strategy_note"],
        "requests_per_s": median(_rates(turns)),
        "rounds_requests_per_s": _rates(turns),
        # Per round, so that what slows down both cancels out.
        "speedup": median([own / serial for own, serial in zip(_rates(turns), serial_per_s, strict=True)]),
        "tokens_per_s": None if tokens is None else tokens / took_s,
        "response_ms": milliseconds([taken_s * 1e3 for turn in turns for taken_s in turn.response_s]),
        **stages,
        "failed": len(errors),
        "first_error": errors[0] if errors else None,
    }


def _rates(turns: Sequence[UserTurn]) -> list[float]:
    return [len(turn.metrics) / turn.took_s for turn in turns]


def one_line(report: Mapping[str, Any]) -> str:
    """Return the speedups in one line: ``serial 1.0x, batch-8 7.9x, batch-16 15.6x``."""
    return ", ".join(f"{name} {one['speedup']:.1f}x" for name, one in report["contenders"].items())


def tables(report: Mapping[str, Any]) -> list[TableRows]:
    """Return two tables: throughput per contender, and mean latency parts in milliseconds."""
    contenders = report["contenders"].items()
    rates = [["contender", "speedup", "requests/s", "tokens/s", "batch", "padding", "failed"]]
    rates += [
        [
            name, f"{one['speedup']:.1f}x", number(one["requests_per_s"]), number(one["tokens_per_s"]),
            number(one["mean_batch_size"]), percent(one["padding_ratio"]), str(one["failed"]),
        ]
        for name, one in contenders
    ]  # fmt: skip
    heads = HEADS | (FIRST_HEADS if any(one.get("ttft_ms") for _, one in contenders) else {})
    times = [["mean ms", *heads.values(), "p50", "p99"]]
    times += [
        [
            name,
            *(number(one[key] and one[key]["mean"]) for key in heads),
            *(number(one["response_ms"][share]) for share in ("p50", "p99")),
        ]
        for name, one in contenders
    ]
    return [rates, times]


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return notes to the tables: strategies that an engine replaced, and failures."""
    lines = []
    for name, one in report["contenders"].items():
        if one["strategy_note"]:
            lines.append(f"{name}: {one['strategy_note']}")
        if one["failed"]:
            lines.append(f"{name}: {one['failed']} failed; the first: {one['first_error']}")
    return list(dict.fromkeys(lines))


def panels(report: Mapping[str, Any], turns: Mapping[str, Sequence[UserTurn]]) -> list[Panel]:
    """Return plots: speedup, throughput over batch size, mean latency parts, and the distribution of response times."""
    contenders = report["contenders"]
    parts = {HEADS[stage]: {name: one[stage]["mean"] for name, one in contenders.items()} for stage in STAGES}
    response_s = {name: [taken_s for turn in rounds for taken_s in turn.response_s] for name, rounds in turns.items()}
    return [
        Panel(
            "Speedup over one request per batch",
            "",
            "times",
            {},
            bars={"": {n: one["speedup"] for n, one in contenders.items()}},
        ),
        Panel("Throughput", "max_batch_size", "requests/s", _over_size(contenders, "requests_per_s")),
        Panel("Mean latency, by part", "", "ms", {}, bars=parts),
        distribution_panel(response_s),
    ]


def _over_size(contenders: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return one line per strategy, each starting at the figure for one request per batch."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    serial = contenders[SERIAL]
    for name, one in contenders.items():
        if name != SERIAL:
            x, y = lines.setdefault(one["strategy"], ([1.0], [serial[key]]))
            x.append(one["max_batch_size"])
            y.append(one[key])
    return lines
