"""One request that generates text, and what is measured of one and of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles


@dataclass(slots=True)
class Request:
    """A prompt and the tokens it asks for. Times are seconds on one clock, which starts at 0."""

    id: int
    #: In tokens.
    prompt_length: int
    #: Tokens to generate.
    output_length: int
    arrival_time: float
    #: When it got its place in a batch; None before that.
    start_time: float | None = None
    #: When its answer was handed out; None before that.
    end_time: float | None = None


def calculate_request_latency(request: Request) -> dict[str, float]:
    """Where the time of a completed request went, in seconds, and how many tokens it got.

    ``time_to_first_token`` is counted from the arrival, with the processing time spread evenly over the tokens; for a
    request without output it is the whole latency. Raises `ValueError` for a request that has not ended.
    """
    start_s, end_s = _span(request)
    processing_s = end_s - start_s
    queue_s = start_s - request.arrival_time
    return {
        "queue_time": queue_s,
        "processing_time": processing_s,
        "total_latency": end_s - request.arrival_time,
        "time_to_first_token": queue_s + processing_s / max(1, request.output_length),
        "tokens_generated": request.output_length,
    }


def calculate_batch_metrics(completed_requests: Sequence[Request], total_time: float) -> dict[str, float]:
    """Throughput in tokens a second, latencies in seconds, and the share of ``total_time`` when any request ran.

    Percentiles are interpolated (method 7 of Hyndman and Fan, 1996). Of no requests, or no time, every figure is 0.
    Raises `ValueError` for a request that has not ended and for a time that is not a finite number >= 0.
    """
    if not 0 <= total_time < math.inf:
        raise ValueError(f"total_time is {total_time}; it takes seconds, 0 or more")
    latencies = [calculate_request_latency(request) for request in completed_requests]
    totals = [one["total_latency"] for one in latencies]
    tokens = sum(request.output_length for request in completed_requests)
    cuts = quantiles(totals, n=100, method="inclusive") if len(totals) > 1 else [*totals, 0.0][:1] * 99
    return {
        "throughput": tokens / total_time if total_time else 0.0,
        "avg_latency": fmean(totals) if totals else 0.0,
        "p50_latency": cuts[49],
        "p95_latency": cuts[94],
        "p99_latency": cuts[98],
        "avg_queue_time": fmean([one["queue_time"] for one in latencies]) if latencies else 0.0,
        "gpu_utilization": _busy_s([_span(request) for request in completed_requests]) / total_time
        if total_time
        else 0.0,
    }


def check_requests(requests: Sequence[Request]) -> None:
    """Raise `ValueError` naming the first request whose lengths or arrival no simulation takes."""
    for request in requests:
        if request.prompt_length < 0 or request.output_length < 0:
            raise ValueError(f"request {request.id}: lengths are tokens, 0 or more")
        if not 0 <= request.arrival_time < math.inf:
            raise ValueError(f"request {request.id}: arrival_time is {request.arrival_time}; it takes seconds >= 0")


def _span(request: Request) -> tuple[float, float]:
    if request.start_time is None or request.end_time is None:
        raise ValueError(f"request {request.id} has not ended: it has no start_time or no end_time")
    return request.start_time, request.end_time


def _busy_s(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of ``spans``."""
    busy_s, until_s = 0.0, 0.0
    for start_s, end_s in sorted(spans):
        busy_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return busy_s
