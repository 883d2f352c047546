"""`BatchModel`: one served model whose requests run in batches."""

from __future__ import annotations

import time
from dataclasses import replace

from windrow.scheduler.core.batch_scheduler import BatchScheduler
from windrow.scheduler.core.learned_window import window_limits
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits
from windrow.scheduler.queue import RedisQueue, Request
from windrow.worker.batches.forward import BatchBudget, RunningBatch, collect_batch
from windrow.worker.engines.base import Engine
from windrow.worker.leases.leases import Leases
from windrow.worker.process.model_requests import Batching
from windrow.worker.process.model_status import ModelStatus, milliseconds


class BatchModel:
    """The engine, the leases, the limits and the scheduler of one model."""

    def __init__(
        self,
        queue: RedisQueue,
        engine: Engine,
        limits: BatchLimits,
        max_wait_s: float | None,
        lease_s: float,
        worker: str,
        is_spare: bool = False,
    ) -> None:
        """If ``max_wait_s`` is None, the window is learned."""
        self.engine = engine
        self.leases = Leases(queue, lease_s, is_spare=is_spare)
        self.status = ModelStatus(queue, engine, worker)
        self.limits = limits
        self.max_wait_s = max_wait_s
        #: Decides about this model's batches. `BatchBuffer` changes it under its lock.
        self.scheduler = BatchScheduler(self.window)
        #: The limits of batches, which may become lower than ``limits``.
        self.budget = BatchBudget(limits)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.leases.queue.model

    @property
    def window(self) -> WindowLimits:
        """What closes this model's window."""
        return window_limits(self.limits.max_batch_size, self.limits.max_batch_tokens, self.max_wait_s)

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Send a heartbeat; see `ModelStatus.heartbeat`."""
        wait_ms = milliseconds(self.scheduler.max_wait_s)
        details = {"wait_ms": wait_ms, "ran_out_tokens": self.budget.ran_out_tokens}
        self.status.heartbeat(self.engine, len(self.leases.held), busy_s, details)

    def store_observations(self) -> None:
        """Add the observations to those of all workers; see `ModelStatus.store_observations`."""
        self.status.store_observations()

    @property
    def batching(self) -> Batching:
        """The batch settings in use."""
        return Batching(self.limits.max_batch_size, self.max_wait_s)

    def set_batching(self, batching: Batching) -> None:
        """Use other batch settings; `BatchBuffer.set_limits` applies the new `window`."""
        self.max_wait_s = batching.max_wait_s
        self.limits = replace(self.limits, max_batch_size=batching.max_batch_size)
        self.budget.limits = replace(self.budget.limits, max_batch_size=batching.max_batch_size)

    def replace_engine(self, engine: Engine, limits: BatchLimits) -> None:
        """Run later requests on ``engine`` with ``limits``, except for the maximum batch size, which does not change.

        Call this only while no request is held, because an engine cannot run what another one has prepared.
        """
        self.limits = replace(limits, max_batch_size=self.limits.max_batch_size)
        self.budget = BatchBudget(self.limits)
        self.engine = engine
        self.status.engine_replaced(engine)

    def collect(self, running: RunningBatch, closed_by: str) -> list[Request]:
        """Wait for a batch and set the outcome and the metrics of each of its requests."""
        outcomes = collect_batch(running, self.budget)
        ended_s, requests, batch = time.monotonic(), running.requests, running.batch
        self._observe(running, ended_s, closed_by)
        started_s = running.started_s + self.leases.redis_offset_s
        of_batch = {
            "compute_ms": milliseconds(ended_s - running.started_s),
            "batch_size": len(requests),
            "batch_tokens": batch.tokens,
            "padding_ratio": round(batch.padding_ratio, 4),
            "closed_by": closed_by,
            "worker": self.status.worker,
            "batch_id": f"{self.status.worker}-{self.status.process_id}-{running.number}",
        }
        for request, outcome in zip(requests, outcomes, strict=True):
            metrics = {
                "queue_ms": milliseconds(request.claimed_s - request.arrived_s),
                "batch_wait_ms": milliseconds(running.started_s - request.claimed_s),
                "total_ms": milliseconds(ended_s - request.arrived_s),
                "attempts": request.attempt,
                "tokens": request.prepared.tokens,
                **of_batch,
            }
            request.set_outcome(outcome, started_s, metrics)
        return requests

    def _observe(self, running: RunningBatch, ended_s: float, closed_by: str) -> None:
        """Record the observations of a batch, not of each request: at 30,000 requests per second that would be slow."""
        requests, batch, observed = running.requests, running.batch, self.status.observed
        observed.observe_each("queue", [request.claimed_s - request.arrived_s for request in requests])
        observed.observe_each("batch_wait", [running.started_s - request.claimed_s for request in requests])
        observed.observe("compute", ended_s - running.started_s, len(requests))
        observed.observe_each("request", [ended_s - request.arrived_s for request in requests])
        observed.observe("batch_size", len(requests))
        observed.observe("batch_tokens", batch.tokens)
        observed.observe("padding_ratio", batch.padding_ratio)
        observed.count_batch(closed_by)
        observed.count_tokens("prompt", batch.asked_tokens)
