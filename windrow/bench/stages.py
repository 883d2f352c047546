"""What the metrics of answers say of queue, company and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scheduler.lab.measure import distribution_ms

#: What the way of a request through the service consists of: until it was claimed, until its pass began, its pass.
STAGES = ("queue_ms", "batch_wait_ms", "compute_ms")


def summarise_stages(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A distribution in milliseconds of each stage, and what the passes held, from the metrics of each request.

    ``tokens`` are those asked for. Each request counts for its share of its pass, so that passes which others shared
    count in part: passes are ``sum(1 / batch_size)``. None where no metrics say it.
    """
    report: dict[str, Any] = {stage: milliseconds([one[stage] for one in metrics if stage in one]) for stage in STAGES}
    in_passes = [one for one in metrics if one.get("batch_size") and one.get("batch_tokens")]
    if not in_passes:
        return report | {"mean_batch_size": None, "padding_ratio": None, "tokens": None}
    passes = sum(1 / one["batch_size"] for one in in_passes)
    computed = sum(one["batch_tokens"] / one["batch_size"] for one in in_passes)
    asked = sum(one["batch_tokens"] * (1 - one["padding_ratio"]) / one["batch_size"] for one in in_passes)
    return report | {
        "mean_batch_size": len(in_passes) / passes,
        "padding_ratio": 1 - asked / computed,
        "tokens": round(asked),
    }


def milliseconds(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles and maximum of milliseconds; None of nothing."""
    return distribution_ms(np.asarray(values, float) / 1e3)
