"""Splits the latency of requests into queue, batch wait and compute, from the metrics of their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windrow.lab.measure.figures import distribution_ms

#: The parts of a request's latency: until it was claimed, until its batch started, its batch.
STAGES = ("queue_ms", "batch_wait_ms", "compute_ms")
#: For generated text: name in reports -> name in the metrics of predictions.
GENERATED = {"ttft_ms": "time_to_first_token_ms", "itl_ms": "inter_token_ms"}


def measured(metrics: Mapping[str, Any], output: Any) -> dict[str, Any]:
    """Return the metrics of an answer; for generated text also its number of tokens, and `GENERATED`."""
    made = dict(metrics)
    if isinstance(output, Mapping) and "usage" in output:
        made["completion_tokens"] = output["usage"]["completion_tokens"]
        made |= {key: metrics[name] for key, name in GENERATED.items() if name in metrics}
    return made


def summarise_stages(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the metrics of requests: a distribution in milliseconds per stage, and the size of batches.

    ``tokens`` counts generated tokens, or else input tokens. Each request counts for its share of its batch, so that a
    batch shared with other requests counts in part: the number of batches is ``sum(1 / batch_size)``. A figure that the
    metrics do not have is None.
    """
    report: dict[str, Any] = {stage: milliseconds([one[stage] for one in metrics if stage in one]) for stage in STAGES}
    if any("completion_tokens" in one for one in metrics):
        report |= {key: milliseconds([one[key] for one in metrics if key in one]) for key in GENERATED}
        tokens = sum(one.get("completion_tokens", 0) for one in metrics)
        return report | {"mean_batch_size": None, "padding_ratio": None, "tokens": tokens}
    batched = [one for one in metrics if one.get("batch_size") and one.get("batch_tokens")]
    if not batched:
        return report | {"mean_batch_size": None, "padding_ratio": None, "tokens": None}
    batches = sum(1 / one["batch_size"] for one in batched)
    computed = sum(one["batch_tokens"] / one["batch_size"] for one in batched)
    asked = sum(one["batch_tokens"] * (1 - one["padding_ratio"]) / one["batch_size"] for one in batched)
    return report | {
        "mean_batch_size": len(batched) / batches,
        "padding_ratio": 1 - asked / computed,
        "tokens": round(asked),
    }


def milliseconds(values: Sequence[float]) -> dict[str, float] | None:
    """Return mean, percentiles and maximum of values in milliseconds; None if there are none."""
    return distribution_ms(np.asarray(values, float) / 1e3)
