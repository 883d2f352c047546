"""Prometheus metrics, read from Redis at the scrape: every API process reports the same, whoever is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from redis import Redis

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.observations import TIMES, TOKEN_KINDS, Histogram, read_observations
from windrow.scheduler.tasks import TASKS

ENDED = ("succeeded", "failed", "canceled", "expired")
#: Why the submit script refuses a call.
REASONS = ("depth", "bytes", "tenant_in_flight", "tenant_bytes", "tenant_rate")
#: What is observed -> the metric's name behind ``windrow_``, and what it says.
HISTOGRAMS = {
    "queue": ("queue_seconds", "From the submit to the claim by a worker"),
    "batch_wait": (
        "batch_wait_seconds",
        "From the claim to the start of the forward pass, or to the model that generates",
    ),
    "compute": ("compute_seconds", "From there to the end"),
    "request": ("request_seconds", "From the submit to the end"),
    "batch_size": ("batch_size", "Requests of a forward pass"),
    "batch_tokens": ("batch_tokens", "Tokens of a forward pass, padding included"),
    "padding_ratio": ("padding_ratio", "Share of a forward pass's tokens that is padding"),
    "first_token": ("time_to_first_token_seconds", "From the submit to the first token"),
    "inter_token": ("inter_token_seconds", "From one token of an answer to the next"),
}
OF_BATCHES, OF_STEPS = ("batch_size", "batch_tokens", "padding_ratio"), ("first_token", "inter_token")


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
        dead_letters = CounterMetricFamily(
            "windrow_dead_letters", "Requests given up after their last attempt", labels=["model"]
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
            dead_letters.add_metric([name], depth.counts.get("dead_letters", 0))
        yield from (requests, waiting, running, rejections, redeliveries, dead_letters, windows, busy, pages)


class ObservedCollector(Collector):
    """What workers observed: where the time of requests went, what batches held, and the tokens."""

    def __init__(self, redis: Redis, models: Mapping[str, ModelSettings]) -> None:
        self._redis = redis
        #: Name -> whether it generates, which goes in steps and not in batches.
        self._models = {name: TASKS[model.task].streams for name, model in models.items()}

    def describe(self) -> list[Metric]:
        """Nothing: so that registering it does not ask Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One `read_observations` a model; Redis errors pass through."""
        tokens = CounterMetricFamily("windrow_tokens", "Tokens read and generated", labels=["model", "kind"])
        batches = CounterMetricFamily(
            "windrow_batches", "Forward passes, by why their row closed", labels=["model", "closed_by"]
        )
        preemptions = CounterMetricFamily(
            "windrow_preemptions", "Sequences that made room and went on later", labels=["model"]
        )
        histograms = {
            name: HistogramMetricFamily(f"windrow_{metric}", says, labels=["model"])
            for name, (metric, says) in HISTOGRAMS.items()
        }
        for model, generates in self._models.items():
            observed = read_observations(self._redis, model)
            for kind in TOKEN_KINDS if generates else ("prompt",):
                tokens.add_metric([model, kind], observed.tokens[kind])
            if generates:
                preemptions.add_metric([model], observed.preemptions)
            else:
                for why, count in observed.batches.items():
                    batches.add_metric([model, why], count)
            for name in (*TIMES, *(OF_STEPS if generates else OF_BATCHES)):
                found = observed.histograms[name]
                histograms[name].add_metric([model], buckets(found), found.sum)
        yield from (tokens, batches, preemptions, *histograms.values())


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """As Prometheus counts: each bucket has all that are below its bound."""
    bounds = [floatToGoString(bound) for bound in (*histogram.bounds, float("inf"))]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
