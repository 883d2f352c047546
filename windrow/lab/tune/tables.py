"""Measurements and fits as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windrow.lab.report.tables import TableRows, number

#: Field of a point of a curve -> column.
POINT_HEADS = {
    "batch_size": "batch", "sequences": "sequences", "cached_tokens": "cached tokens",
    "throughput_per_s": "requests/s", "tokens_per_s": "tokens/s", "latency_ms": "ms", "step_ms": "ms per step",
    "tokens": "tokens",
}  # fmt: skip


def curve_rows(points: Sequence[Mapping[str, float]]) -> TableRows:
    """Return the measurements of each size."""
    names = [name for name in POINT_HEADS if name in points[0]]
    return [[POINT_HEADS[name] for name in names], *([number(one[name]) for name in names] for one in points)]


def pass_rows(cost: Mapping[str, Any]) -> TableRows:
    """Return the fitted costs of batches; empty for a model that generates."""
    rows = []
    for kind in ("padded", "packed"):
        line, fit = cost[kind], cost["about"]["fit"]
        if line is not None:
            parts = (line["pass_s"] * 1e3, line["token_s"] * 1e6, line["sequence_s"] * 1e6)
            error = fit.get(kind) or fit.get("dynamic") or fit["packed"]
            lanes = [str(line["lanes"]), f"{1e3 * line['chore_s']:.2f}"]
            rows.append([kind, *map(number, parts), *lanes, *_misses(error)])
    heads = ["passes", "per batch, ms", "per token, us", "per request, us", "lanes", "chore, ms", "median error", "p95"]
    return [heads, *rows] if rows else []


def step_rows(cost: Mapping[str, Any]) -> TableRows:
    """Return the fitted cost of decode steps; empty for a model that answers in one batch."""
    line = cost["decode"]
    if line is None:
        return []
    heads = ["per step, ms", "prefill adds, ms", "per token, us", "per sequence, us", "per 1,000 cached tokens, us"]
    parts = (
        line["step_s"] * 1e3, line["read_s"] * 1e3, line["token_s"] * 1e6, line["sequence_s"] * 1e6,
        line["cache_token_s"] * 1e9,
    )  # fmt: skip
    return [[*heads, "median error", "p95"], [*map(number, parts), *_misses(cost["about"]["fit"]["steps"])]]


def _misses(error: Mapping[str, float]) -> list[str]:
    return [f"{error[name]:.1%}" for name in ("median_error", "p95_error")]
