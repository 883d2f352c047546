"""Renders `windrow.scheduler.queue.metrics` for Prometheus, with values read from Redis at the scrape."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from redis import Redis

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.metrics import METRICS, Histogram, Metric, ModelState
from windrow.scheduler.queue.observations import read_observations
from windrow.scheduler.tasks import TASKS


def render_metrics(redis: Redis, queues: Mapping[str, RedisQueue], models: Mapping[str, ModelSettings]) -> bytes:
    """Return all metrics in Prometheus's text format; Redis errors pass through, so that the scrape fails."""
    states = {
        name: read_state(redis, queue, generates=TASKS[models[name].task].streams) for name, queue in queues.items()
    }
    registry = CollectorRegistry()
    registry.register(_Families([make_family(metric, states) for metric in METRICS]))
    return generate_latest(registry)


def read_state(redis: Redis, queue: RedisQueue, *, generates: bool) -> ModelState:
    """Read what the metrics of one model are made from."""
    heartbeats = queue.workers(within_s=HEARD_WITHIN_S)
    return ModelState(generates, queue.depth(), read_observations(redis, queue.model), heartbeats)


def make_family(metric: Metric, states: Mapping[str, ModelState]) -> Family:
    """Return a metric's samples for all models."""
    kind = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}[metric.type]
    family = kind(f"windrow_{metric.name}", metric.help, labels=("model", *metric.labels))
    for model, state in states.items():
        for labels, value in metric.samples(state):
            sample = (cumulative_buckets(value), value.sum) if isinstance(value, Histogram) else (value,)
            family.add_metric([model, *labels], *sample)
    return family


def cumulative_buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus counts them: each includes those below it."""
    bounds = [floatToGoString(bound) for bound in (*histogram.bounds, float("inf"))]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))


class _Families(Collector):
    """The families of one scrape."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families
