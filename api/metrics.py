"""Prometheus metrics, read from Redis at the scrape: every API process reports the same, whoever is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.core.liveness import HEARD_WITHIN_S
from scheduler.queue import RedisQueue

ENDED = ("succeeded", "failed", "canceled", "expired")
#: Why the submit script refuses a call.
REASONS = ("depth", "bytes", "tenant_in_flight", "tenant_bytes", "tenant_rate")


class QueueCollector(Collector):
    """Counts and depths of every model's queue, and the windows of its workers."""

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
        for name, queue in self._queues.items():
            for worker, info in queue.workers(within_s=HEARD_WITHIN_S).items():
                wait_ms = orjson.loads(info).get("wait_ms")
                if wait_ms is not None:
                    windows.add_metric([name, worker], wait_ms / 1e3)
            depth = queue.depth()
            for status in ENDED:
                requests.add_metric([name, status], depth.counts.get(status, 0))
            waiting.add_metric([name], depth.waiting)
            running.add_metric([name], depth.running)
            for reason in REASONS:
                rejections.add_metric([name, reason], depth.counts.get(f"rejected_{reason}", 0))
            redeliveries.add_metric([name], depth.counts.get("redelivered", 0))
        yield from (requests, waiting, running, rejections, redeliveries, windows)
