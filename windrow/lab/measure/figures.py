"""The figures of a report, computed from the outcome of each simulated request."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from windrow.lab.simulate.batch_runner import SimulatedBatch
from windrow.lab.simulate.device import Step
from windrow.lab.simulate.outcome import Outcome

Seconds = NDArray[np.float64]
#: Percentiles of every reported distribution.
PERCENTILES = (50, 90, 95, 99)


def summarise(outcome: Outcome, slo_s: float | None = None, slo_itl_s: float | None = None) -> dict[str, Any]:
    """Summarise a run: durations in milliseconds, rates per second from the first arrival to the last finish.

    A rate is None if nothing finished, or everything finished at its arrival. Goodput counts requests that took at most
    ``slo_s``; for generated text, those whose first token took at most ``slo_s`` and whose tokens were at most
    ``slo_itl_s`` apart on average.
    """
    arrival_s, start_s, end_s = _columns(outcome)
    is_done = np.isfinite(end_s)
    took_s, waited_s = (end_s - arrival_s)[is_done], (start_s - arrival_s)[is_done]
    span_s = _span_s(arrival_s, end_s)
    done = int(is_done.sum())
    report: dict[str, Any] = {
        "requests": len(arrival_s),
        "succeeded": done,
        "failed": outcome.failed,
        "unserved": len(arrival_s) - done - outcome.failed,
        "redelivered": outcome.redelivered,
        "devices": outcome.devices,
        "seconds": span_s,
        "throughput_per_s": _rate(done, span_s),
        "tokens_per_s": _rate(int(np.asarray(outcome.workload.tokens)[is_done].sum()), span_s),
        "latency_ms": distribution_ms(took_s),
        "queue_ms": distribution_ms(waited_s),
    }
    if slo_s is not None or slo_itl_s is not None:
        within = _within(outcome, slo_s, slo_itl_s)
        report["goodput_per_s"] = _rate(within, span_s)
        report["within_slo"] = within / len(arrival_s)
    if outcome.first_s:
        report |= _of_generation(outcome, span_s)
    return report | _of_devices(outcome, span_s) | _of_flows(outcome, end_s - arrival_s)


def _within(outcome: Outcome, slo_s: float | None, slo_itl_s: float | None) -> int:
    """Return which requests met the limits; unfinished ones did not."""
    arrival_s, _, end_s = _columns(outcome)
    answered_s = np.asarray(outcome.first_s) if outcome.first_s else end_s
    is_good = np.isfinite(end_s)
    if slo_s is not None:
        is_good &= answered_s - arrival_s <= slo_s
    if slo_itl_s is not None and outcome.first_s:
        gaps = np.maximum(np.asarray(outcome.workload.output_tokens) - 1, 1)
        is_good &= (end_s - answered_s) / gaps <= slo_itl_s
    return int(is_good.sum())


def distribution_ms(seconds: Seconds, weights: NDArray[np.int64] | None = None) -> dict[str, float] | None:
    """Return mean, percentiles and maximum in milliseconds; None if there are no values.

    With ``weights``, each value counts that many times, and percentiles are not interpolated.
    """
    if not len(seconds):
        return None
    method: Literal["linear", "inverted_cdf"] = "linear" if weights is None else "inverted_cdf"
    values = np.percentile(seconds, PERCENTILES, weights=weights, method=method)
    named = {f"p{share}": float(value * 1e3) for share, value in zip(PERCENTILES, values, strict=True)}
    return {"mean": float(np.average(seconds, weights=weights) * 1e3), **named, "max": float(seconds.max() * 1e3)}


def series(outcome: Outcome, points: int = 120) -> dict[str, list[float]]:
    """Return time series of ``points`` equal intervals: rates per second, queued requests, busy devices (share), p99
    in ms.

    Queued and busy are means per interval. A request counts as served evenly over its processing time: batches finish
    all at once, and counted at their end they would interfere with the intervals. The p99 of an empty interval is NaN.
    """
    arrival_s, start_s, end_s = _columns(outcome)
    is_done = np.isfinite(end_s)
    last_s = max(arrival_s[-1], end_s[is_done].max(initial=0.0))
    edges = np.linspace(arrival_s[0], last_s if last_s > arrival_s[0] else arrival_s[0] + 1e-9, points + 1)
    step_s = edges[1] - edges[0]
    begun_s, done_s = start_s[is_done], end_s[is_done]
    took_s = np.maximum(done_s - begun_s, 1e-9)
    served = _covered(edges, done_s - took_s, done_s, 1 / took_s)
    waiting_s = _covered(edges, arrival_s, np.where(is_done, start_s, last_s))
    spans = np.array([span[:2] for span in _busy(outcome.batches)]).reshape(-1, 2)
    return {
        "at_s": ((edges[1:] + edges[:-1]) / 2 - arrival_s[0]).tolist(),
        "arrivals_per_s": (np.histogram(arrival_s, edges)[0] / step_s).tolist(),
        "served_per_s": (served / step_s).tolist(),
        "waiting": (waiting_s / step_s).tolist(),
        "busy": (_covered(edges, spans[:, 0], spans[:, 1]) / (step_s * outcome.devices)).tolist(),
        "p99_ms": _p99_in(edges, done_s, (end_s - arrival_s)[is_done]),
    }


def cumulative(seconds: Sequence[float] | Seconds, points: int = 400) -> tuple[list[float], list[float]]:
    """Return the cumulative distribution: milliseconds, and the share of ``seconds`` at or below each."""
    shares = np.linspace(0.0, 1.0, points)
    return (np.quantile(np.asarray(seconds), shares) * 1e3).tolist(), shares.tolist()


def latencies_s(outcome: Outcome) -> Seconds:
    """Return the latencies of finished requests, in order of arrival."""
    arrival_s, _, end_s = _columns(outcome)
    taken: Seconds = (end_s - arrival_s)[np.isfinite(end_s)]
    return taken


def _columns(outcome: Outcome) -> tuple[Seconds, Seconds, Seconds]:
    return np.asarray(outcome.workload.arrival_s, float), np.asarray(outcome.start_s), np.asarray(outcome.end_s)


def _span_s(arrival_s: Seconds, end_s: Seconds) -> float:
    ended = end_s[np.isfinite(end_s)]
    return float(ended.max() - arrival_s[0]) if len(ended) else 0.0


def _rate(count: int, span_s: float) -> float | None:
    return count / span_s if span_s else None


def _of_devices(outcome: Outcome, span_s: float) -> dict[str, Any]:
    passes = outcome.batches
    busy_s = [0.0] * outcome.devices
    for start_s, end_s, device in _busy(passes):
        busy_s[device] += end_s - start_s
    tokens, asked = sum(one.tokens for one in passes), sum(one.asked_tokens for one in passes)
    return {
        "utilisation": [used_s / span_s if span_s else 0.0 for used_s in busy_s],
        "lost_device_s": outcome.lost_s,
        "passes": len(passes),
        "mean_batch_size": sum(one.size for one in passes) / len(passes) if passes else 0.0,
        "padding_ratio": 1 - asked / tokens if tokens else 0.0,
        "closed_by": dict(outcome.closed_by),
    }


def _busy(passes: Sequence[SimulatedBatch]) -> Iterator[tuple[float, float, int]]:
    """Return the busy intervals of each device; batches on a CPU overlap and end in the order they started."""
    until_s: dict[int, float] = {}
    for one in passes:
        yield max(one.start_s, until_s.get(one.device, 0.0)), one.end_s, one.device
        until_s[one.device] = one.end_s


def _of_generation(outcome: Outcome, span_s: float) -> dict[str, Any]:
    """Return times to first token, and times between tokens; a step is one gap for each sequence that decodes in it."""
    first_s = np.asarray(outcome.first_s) - np.asarray(outcome.workload.arrival_s)
    is_done = np.isfinite(first_s)
    tokens = int(np.asarray(outcome.workload.output_tokens)[is_done].sum())
    steps = [one for one in outcome.batches if isinstance(one, Step) and one.decoding]
    gaps_s = np.array([one.end_s - one.start_s for one in steps])
    return {
        "tokens_per_s": _rate(tokens, span_s),
        "ttft_ms": distribution_ms(first_s[is_done]),
        "itl_ms": distribution_ms(gaps_s, np.array([one.decoding for one in steps])),
    }


def _of_flows(outcome: Outcome, took_s: Seconds) -> dict[str, Any]:
    flows = outcome.workload.flows
    if len(flows) < 2:
        return {}
    flow, is_done = np.asarray(outcome.workload.flow), np.isfinite(took_s)
    return {
        "flows": {
            one.name: {
                "requests": int((flow == number).sum()),
                "latency_ms": distribution_ms(took_s[is_done & (flow == number)]),
            }
            for number, one in enumerate(flows)
        }
    }


def _covered(edges: Seconds, start_s: Seconds, end_s: Seconds, weight: Seconds | None = None) -> Seconds:
    """Return the weighted seconds of each interval that the spans cover."""
    weights = np.ones(len(start_s)) if weight is None else weight

    def since(at_s: Seconds) -> Seconds:
        """Return the seconds from each of ``at_s`` to each later edge."""
        order = np.argsort(at_s)
        sums, moments = (np.concatenate([[0.0], np.cumsum(one[order])]) for one in (weights, weights * at_s))
        before = np.searchsorted(at_s[order], edges)
        lengths: Seconds = edges * sums[before] - moments[before]
        return lengths

    covered: Seconds = np.diff(since(start_s) - since(end_s))
    return np.maximum(covered, 0.0)  # differences of large sums have rounding errors


def _p99_in(edges: Seconds, end_s: Seconds, took_s: Seconds) -> list[float]:
    order = np.argsort(end_s)
    cuts = np.searchsorted(end_s[order], edges)
    parts = [took_s[order[low:high]] for low, high in pairwise(cuts.tolist())]
    return [float(np.percentile(part, 99) * 1e3) if len(part) else math.nan for part in parts]
