"""The device's timeline, reconstructed from the metrics of the predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from benchmarks.stats import median, percentile


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass; times are in seconds since the epoch."""

    started_s: float
    ended_s: float
    size: int
    tokens: int


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Utilization of the device between its first and its last batch."""

    batches: int
    mean_size: float
    #: Share of the time in which a batch ran, from 0 to 1.
    busy_ratio: float
    #: Time between two batches in milliseconds.
    gap_p50_ms: float
    gap_p90_ms: float
    #: Tokens computed per second of busy time.
    tokens_per_busy_s: float


def read_batches(predictions: Iterable[Mapping[str, Any]]) -> list[Batch]:
    """Return the batches of the predictions in order of their start."""
    batches: dict[str, Batch] = {}
    for prediction in predictions:
        metrics = prediction["metrics"]
        started_s = datetime.fromisoformat(prediction["started_at"]).timestamp()
        ended_s = started_s + metrics["compute_ms"] / 1e3
        batches[metrics["batch_id"]] = Batch(started_s, ended_s, metrics["batch_size"], metrics["batch_tokens"])
    return sorted(batches.values(), key=lambda batch: batch.started_s)


def device_use(batches: Sequence[Batch]) -> DeviceUse | None:
    """Summarize ``batches``, sorted by their start; None for fewer than two."""
    if len(batches) < 2:
        return None
    busy_s, until_s = 0.0, batches[0].started_s
    for batch in batches:
        busy_s += max(0.0, batch.ended_s - max(batch.started_s, until_s))
        until_s = max(until_s, batch.ended_s)
    gaps_ms = [max(0.0, after.started_s - before.ended_s) * 1e3 for before, after in pairwise(batches)]
    return DeviceUse(
        batches=len(batches),
        mean_size=sum(batch.size for batch in batches) / len(batches),
        busy_ratio=busy_s / (until_s - batches[0].started_s),
        gap_p50_ms=median(gaps_ms),
        gap_p90_ms=percentile(gaps_ms, 0.9),
        tokens_per_busy_s=sum(batch.tokens for batch in batches) / busy_s,
    )
