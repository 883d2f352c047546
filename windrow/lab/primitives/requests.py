"""A request that generates text, and the metrics of one request and of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from windrow.lab.primitives.amounts import count, seconds


@dataclass(slots=True)
class Request:
    """A prompt and the number of tokens to generate. Times are seconds on a clock that starts at 0."""

    id: int
    #: In tokens.
    prompt_length: int
    #: Tokens to generate.
    output_length: int
    arrival_time: float
    #: When it joined a batch; None before that.
    start_time: float | None = None
    #: When its answer was returned; None before that.
    end_time: float | None = None


def calculate_request_latency(request: Request) -> dict[str, float]:
    """Return the queue time, processing time and latency of a completed request in seconds, and its tokens.

    ``time_to_first_token`` is measured from the arrival and assumes that the processing time is spread evenly over the
    tokens; for a request without output it is the total latency. Raises `ValueError` if the request has not ended, or
    has a length or time that no simulation produces.
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
    """Return the throughput in tokens per second, latencies in seconds, and the GPU utilization.

    ``gpu_utilization`` is the fraction of ``total_time`` in which at least one request ran. Percentiles are
    interpolated (method 7 of Hyndman and Fan, 1996). Without requests, or if ``total_time`` is 0, all values are 0.
    Raises `ValueError` as `calculate_request_latency` does, and if ``total_time`` is negative or not finite.
    """
    total_time, completed = seconds("total_time", total_time), list(completed_requests)
    latencies = [calculate_request_latency(request) for request in completed]
    totals = [latency["total_latency"] for latency in latencies]
    tokens = sum(request.output_length for request in completed)
    cuts = quantiles(totals, n=100, method="inclusive") if len(totals) > 1 else [*totals, 0.0][:1] * 99
    return {
        "throughput": tokens / total_time if total_time else 0.0,
        "avg_latency": fmean(totals) if totals else 0.0,
        "p50_latency": cuts[49],
        "p95_latency": cuts[94],
        "p99_latency": cuts[98],
        "avg_queue_time": fmean([latency["queue_time"] for latency in latencies]) if latencies else 0.0,
        "gpu_utilization": _busy_s([_span(request) for request in completed]) / total_time if total_time else 0.0,
    }


def check_request(request: Request) -> None:
    """Raise `ValueError` with the name of the first field of ``request`` that is invalid."""
    who = f"request {request.id}"
    count(f"{who}: prompt_length", request.prompt_length, 0)
    count(f"{who}: output_length", request.output_length, 0)
    seconds(f"{who}: arrival_time", request.arrival_time)


def _span(request: Request) -> tuple[float, float]:
    who = f"request {request.id}"
    if request.start_time is None or request.end_time is None:
        raise ValueError(f"{who} has not ended: its start_time or end_time is None")
    start_s, end_s = seconds(f"{who}: start_time", request.start_time), seconds(f"{who}: end_time", request.end_time)
    if not request.arrival_time <= start_s <= end_s:
        raise ValueError(
            f"{who} arrives at {request.arrival_time}, starts at {start_s} and ends at {end_s}; "
            "these times must be in ascending order"
        )
    return start_s, end_s


def _busy_s(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of ``spans``, in seconds."""
    busy_s, until_s = 0.0, 0.0
    for start_s, end_s in sorted(spans):
        busy_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return busy_s
