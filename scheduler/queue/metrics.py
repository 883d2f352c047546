"""The Prometheus metrics, one row each: name, type, help, labels, buckets and the source of the values.

Workers count what a row with an ``observed`` name describes (see `windrow.scheduler.queue.observations`); the API reads
all rows from Redis when it is scraped, so that every API process reports the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.queue.depth import Depth

#: The histograms of the stages of a request, for every model.
TIMES = ("queue", "batch_wait", "compute", "request")
#: ``cached`` are prompt tokens whose KV cache was reused.
TOKEN_KINDS = ("prompt", "cached", "completion")
#: Why a window closed; see `windrow.scheduler.core.window`.
CLOSED_BY = ("size", "tokens", "wait", "idle")
FINISHED = ("succeeded", "failed", "canceled", "expired")
#: Why a submit was rejected.
REJECTED_BY = ("depth", "bytes", "tenant_in_flight", "tenant_bytes", "tenant_rate")

TIME_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
FIRST_TOKEN_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
INTER_TOKEN_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
SIZE_BUCKETS = tuple(2.0**power for power in range(12))
TOKEN_BUCKETS = tuple(2.0**power for power in range(4, 19))
RATIO_BUCKETS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values each bucket has, and the sum of all values."""

    #: Upper bounds of the buckets.
    bounds: tuple[float, ...]
    #: One more than there are bounds: the last counts the values above all of them.
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What the workers of one model have counted so far."""

    #: By each of `TOKEN_KINDS`.
    tokens: Mapping[str, int]
    #: By each of `CLOSED_BY`.
    batches: Mapping[str, int]
    preemptions: int
    #: By each name of `BUCKETS`.
    histograms: Mapping[str, Histogram]


class ModelState(NamedTuple):
    """What one scrape reads about one model."""

    generates: bool
    depth: Depth
    observed: Observed
    #: Worker -> its last heartbeat.
    heartbeats: Mapping[str, Heartbeat]


#: Values of the labels after ``model`` -> the value.
Samples = Iterable[tuple[tuple[str, ...], float | Histogram]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of `METRICS`. Every metric has the label ``model``."""

    #: Without the prefix ``windrow_``, and without the suffix ``_total`` of counters.
    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    #: Reads the values of one model.
    samples: Callable[[ModelState], Samples]
    #: Labels after ``model``.
    labels: tuple[str, ...] = ()
    #: Histograms only: the name that workers count it by, and the upper bounds of its buckets.
    observed: str = ""
    buckets: tuple[float, ...] = ()


def _counts(name: str) -> Callable[[ModelState], Samples]:
    """Read one of the queue's counters."""
    return lambda model: [((), model.depth.counts.get(name, 0))]


def _heartbeats(field: str, scale: float = 1.0) -> Callable[[ModelState], Samples]:
    """Read a field of the heartbeats that have it."""
    return lambda model: [
        ((worker,), value * scale)
        for worker, heartbeat in model.heartbeats.items()
        if (value := getattr(heartbeat, field)) is not None
    ]


def _cache_pages(model: ModelState) -> Samples:
    for worker, heartbeat in model.heartbeats.items():
        if heartbeat.pages is not None and heartbeat.pages_taken is not None:
            yield (worker, "taken"), heartbeat.pages_taken
            yield (worker, "available"), heartbeat.pages - heartbeat.pages_taken


def _histogram(
    name: str, observed: str, help: str, buckets: tuple[float, ...], generates: bool | None = None
) -> Metric:
    """Return the row of a histogram, of all models, or only of those that generate or do not."""

    def samples(model: ModelState) -> Samples:
        return [((), model.observed.histograms[observed])] if generates in (None, model.generates) else []

    return Metric(name, "histogram", help, samples, observed=observed, buckets=buckets)


METRICS = (
    Metric(
        "requests", "counter", "Finished requests by status",
        lambda model: [((status,), model.depth.counts.get(status, 0)) for status in FINISHED], ("status",),
    ),
    Metric("requests_waiting", "gauge", "Requests waiting for a worker", lambda model: [((), model.depth.waiting)]),
    Metric("requests_running", "gauge", "Requests claimed by a worker", lambda model: [((), model.depth.running)]),
    Metric(
        "rejections", "counter", "Requests rejected at the submit, by reason",
        lambda model: [((reason,), model.depth.counts.get(f"rejected_{reason}", 0)) for reason in REJECTED_BY],
        ("reason",),
    ),
    Metric("redeliveries", "counter", "Requests requeued after their lease expired", _counts("redelivered")),
    Metric("dead_letters", "counter", "Requests that failed after their last attempt", _counts("dead_letters")),
    Metric(
        "window_seconds", "gauge", "Longest time that a batch buffer collects requests at present",
        _heartbeats("wait_ms", 1e-3), ("worker",),
    ),
    Metric(
        "device_busy_ratio", "gauge", "Share of the last seconds in which the worker's device computed for the model",
        _heartbeats("device_busy_ratio"), ("worker",),
    ),
    Metric(
        "cache_pages", "gauge", "KV-cache pages: taken by sequences, and still available", _cache_pages,
        ("worker", "state"),
    ),
    Metric(
        "tokens", "counter", "Tokens by kind: prompt, of these cached, and completion",
        lambda model: [
            ((kind,), model.observed.tokens[kind]) for kind in (TOKEN_KINDS if model.generates else ("prompt",))
        ],
        ("kind",),
    ),
    Metric(
        "batches", "counter", "Forward passes, by what closed their window",
        lambda model: [] if model.generates else [((why,), count) for why, count in model.observed.batches.items()],
        ("closed_by",),
    ),
    Metric(
        "preemptions", "counter", "Sequences preempted and resumed later",
        lambda model: [((), model.observed.preemptions)] if model.generates else [],
    ),
    _histogram("queue_seconds", "queue", "Time from the submit to the claim", TIME_BUCKETS_S),
    _histogram(
        "batch_wait_seconds", "batch_wait", "Time from the claim to the forward pass, or to the first prefill",
        TIME_BUCKETS_S,
    ),
    _histogram(
        "compute_seconds", "compute", "Time from the forward pass, or the first prefill, to the result", TIME_BUCKETS_S,
    ),
    _histogram("request_seconds", "request", "Time from the submit to the result", TIME_BUCKETS_S),
    _histogram("batch_size", "batch_size", "Requests per forward pass", SIZE_BUCKETS, generates=False),
    _histogram(
        "batch_tokens", "batch_tokens", "Tokens per forward pass, padding included", TOKEN_BUCKETS, generates=False
    ),
    _histogram(
        "padding_ratio", "padding_ratio", "Share of padding in the tokens of a forward pass", RATIO_BUCKETS,
        generates=False,
    ),
    _histogram(
        "time_to_first_token_seconds", "first_token", "Time from the submit to the first token", FIRST_TOKEN_BUCKETS_S,
        generates=True,
    ),
    _histogram(
        "inter_token_seconds", "inter_token", "Time from one token of a result to the next", INTER_TOKEN_BUCKETS_S,
        generates=True,
    ),
)  # fmt: skip

#: The upper bounds of each histogram's buckets, by the name that workers count it by.
BUCKETS = {metric.observed: metric.buckets for metric in METRICS if metric.observed}
