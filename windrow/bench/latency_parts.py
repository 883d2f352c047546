"""What the metrics of answers say of queue, company and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windrow.lab.measure.figures import distribution_ms

#: What the way of a request through the service consists of: until it was claimed, until its pass began, its pass.
STAGES = ("queue_ms", "batch_wait_ms", "compute_ms")
#: Of answers that were generated: what reports call it -> what the metrics of predictions do.
GENERATED = {"ttft_ms": "time_to_first_token_ms", "itl_ms": "inter_token_ms"}


def measured(metrics: Mapping[str, Any], output: Any) -> dict[str, Any]:
    """The metrics of an answer; of one that was generated also how many tokens it has, and `GENERATED`."""
    made = dict(metrics)
    if isinstance(output, Mapping) and "usage" in output:
        made["completion_tokens"] = output["usage"]["completion_tokens"]
        made |= {key: metrics[name] for key, name in GENERATED.items() if name in metrics}
    return made


def summarise_stages(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A distribution in milliseconds of each stage, and what the passes held, from the metrics of each request.

    ``tokens`` are those generated, or else those asked for. Each request counts for its share of its pass, so that
    passes which others shared count in part: passes are ``sum(1 / batch_size)``. None where no metrics say it.
    """
    report: dict[str, Any] = {stage: milliseconds([one[stage] for one in metrics if stage in one]) for stage in STAGES}
    if any("completion_tokens" in one for one in metrics):
        report |= {key: milliseconds([one[key] for one in metrics if key in one]) for key in GENERATED}
        tokens = sum(one.get("completion_tokens", 0) for one in metrics)
        return report | {"mean_batch_size": None, "padding_ratio": None, "tokens": tokens}
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
