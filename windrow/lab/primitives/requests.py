"""One request that generates text, and what is measured of one and of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from windrow.lab.primitives.amounts import count, seconds


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
    request without output it is the whole latency. Raises `ValueError` for a request that has not ended, and for
    lengths and times that no simulation gives.
    """
    check_request(request)
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


def calculate_batch_metrics(completed_requests: Iterable[Request], total_time: float) -> dict[str, float]:
    """Throughput in tokens a second, latencies in seconds, and the share of ``total_time`` when any request ran.

    Percentiles are interpolated (method 7 of Hyndman and Fan, 1996). Of no requests, or no time, every figure is 0.
    Raises `ValueError` as `calculate_request_latency`, and for a ``total_time`` that is negative or not finite.
    """
    total_time, completed = seconds("total_time", total_time), list(completed_requests)
    latencies = [calculate_request_latency(request) for request in completed]
    totals = [one["total_latency"] for one in latencies]
    tokens = sum(request.output_length for request in completed)
    cuts = quantiles(totals, n=100, method="inclusive") if len(totals) > 1 else [*totals, 0.0][:1] * 99
    return {
        "throughput": tokens / total_time if total_time else 0.0,
        "avg_latency": fmean(totals) if totals else 0.0,
        "p50_latency": cuts[49],
        "p95_latency": cuts[94],
        "p99_latency": cuts[98],
        "avg_queue_time": fmean([one["queue_time"] for one in latencies]) if latencies else 0.0,
        "gpu_utilization": _busy_s([_span(request) for request in completed]) / total_time if total_time else 0.0,
    }


def check_request(request: Request) -> None:
    """Raise `ValueError` naming the field of ``request`` that no simulation takes."""
    who = f"request {request.id}"
    count(f"{who}: prompt_length", request.prompt_length, 0)
    count(f"{who}: output_length", request.output_length, 0)
    seconds(f"{who}: arrival_time", request.arrival_time)


def _span(request: Request) -> tuple[float, float]:
    who = f"request {request.id}"
    if request.start_time is None or request.end_time is None:
        raise ValueError(f"{who} has not ended: it has no start_time or no end_time")
    start_s, end_s = seconds(f"{who}: start_time", request.start_time), seconds(f"{who}: end_time", request.end_time)
    if not request.arrival_time <= start_s <= end_s:
        raise ValueError(
            f"{who} arrives at {request.arrival_time}, starts at {start_s} and ends at {end_s}; it takes them in order"
        )
    return start_s, end_s


def _busy_s(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of ``spans``."""
    busy_s, until_s = 0.0, 0.0
    for start_s, end_s in sorted(spans):
        busy_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return busy_s
