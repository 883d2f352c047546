"""Prometheus metrics, read from Redis at the scrape: every API process reports the same, whoever is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from redis import Redis

from scheduler.core.liveness import HEARD_WITHIN_S
from scheduler.queue import RedisQueue
from scheduler.queue.observations import Histogram, read_observations

ENDED = ("succeeded", "failed", "canceled", "expired")
#: Why the submit script refuses a call.
REASONS = ("depth", "bytes", "tenant_in_flight", "tenant_bytes", "tenant_rate")


class QueueCollector(Collector):
    """Counts and depths of every model's queue; windows, device and cache use of its workers."""

    def __init__(self, queues: Mapping[str, RedisQueue]) -> None:
        self._queues = queues

    def describe(self) -> list[Metric]:
        """Nothing: so that registering it does not ask Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What each model's queue and workers say; Redis errors pass through, and the scrape fails as it should."""
        requests = CounterMetricFamily("windrow_requests", "Requests that ended", labels=["model", "status"])
        waiting = GaugeMetricFamily("windrow_requests_waiting", "Requests that wait for a worker", labels=["model"])
        running = GaugeMetricFamily("windrow_requests_running", "Requests that a worker holds", labels=["model"])
        rejections = CounterMetricFamily(
            "windrow_rejections", "Requests refused at the submit", labels=["model", "reason"]
        )
        redeliveries = CounterMetricFamily(
            "windrow_redeliveries", "Requests given to another worker after a lost lease", labels=["model"]
        )
        windows = GaugeMetricFamily(
            "windrow_window_seconds", "The longest that a row waits for company now", labels=["model", "worker"]
        )
        busy = GaugeMetricFamily(
            "windrow_device_busy_ratio",
            "Share of the last seconds in which a worker process had its device at work for the model",
            labels=["model", "worker"],
        )
        pages = GaugeMetricFamily(
            "windrow_cache_pages",
            "Pages of the key/value cache that sequences have, and that they could have",
            labels=["model", "worker", "state"],
        )
        for name, queue in self._queues.items():
            for worker, info in queue.workers(within_s=HEARD_WITHIN_S).items():
                said = orjson.loads(info)
                if said.get("wait_ms") is not None:
                    windows.add_metric([name, worker], said["wait_ms"] / 1e3)
                if said.get("device_busy_ratio") is not None:
                    busy.add_metric([name, worker], said["device_busy_ratio"])
                if said.get("pages_taken") is not None:
                    pages.add_metric([name, worker, "taken"], said["pages_taken"])
                    pages.add_metric([name, worker, "available"], said["pages"] - said["pages_taken"])
            depth = queue.depth()
            for status in ENDED:
                requests.add_metric([name, status], depth.counts.get(status, 0))
            waiting.add_metric([name], depth.waiting)
            running.add_metric([name], depth.running)
            for reason in REASONS:
                rejections.add_metric([name, reason], depth.counts.get(f"rejected_{reason}", 0))
            redeliveries.add_metric([name], depth.counts.get("redelivered", 0))
        yield from (requests, waiting, running, rejections, redeliveries, windows, busy, pages)


class GenerationCollector(Collector):
    """Tokens and times of the models that generate."""

    def __init__(self, redis: Redis, models: Sequence[str]) -> None:
        self._redis = redis
        self._models = models

    def describe(self) -> list[Metric]:
        """Nothing: so that registering it does not ask Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One `read_observations` a model; Redis errors pass through."""
        tokens = CounterMetricFamily("windrow_tokens", "Tokens of requests that generate", labels=["model", "kind"])
        first = HistogramMetricFamily(
            "windrow_time_to_first_token_seconds", "From the submit to the first token", labels=["model"]
        )
        inter = HistogramMetricFamily(
            "windrow_inter_token_seconds", "From one token of an answer to the next", labels=["model"]
        )
        for name in self._models:
            counts, histograms = read_observations(self._redis, name)
            for kind, count in counts.items():
                tokens.add_metric([name, kind], count)
            first.add_metric([name], buckets(histograms["first_token"]), histograms["first_token"].sum_s)
            inter.add_metric([name], buckets(histograms["inter_token"]), histograms["inter_token"].sum_s)
        yield from (tokens, first, inter)


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """As Prometheus counts: each bucket has all that are below its bound."""
    bounds = [floatToGoString(bound_s) for bound_s in (*histogram.bounds_s, float("inf"))]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
