"""One model whose requests run in rows: its queue, its engine, and what its passes may hold."""

from __future__ import annotations

import time
from dataclasses import replace

from windrow.scheduler.core.learned_window import FIRST_WAIT_S, MAX_WAIT_S
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits
from windrow.scheduler.queue import RedisQueue, Request
from windrow.worker.batches.forward import BatchBudget, RunningBatch, collect_batch
from windrow.worker.engines.base import Engine
from windrow.worker.leases.leases import Leases
from windrow.worker.process.model_requests import Batching
from windrow.worker.process.model_status import ModelStatus, milliseconds


class BatchModel:
    """One model whose requests run in batches."""

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
        self.engine = engine
        self.leases = Leases(queue, lease_s, is_spare=is_spare)
        self.status = ModelStatus(queue, engine, worker)
        self.limits = limits
        #: None where it is learnt.
        self.max_wait_s = max_wait_s
        #: The window in use, as the resident last said.
        self.wait_s = FIRST_WAIT_S if max_wait_s is None else max_wait_s
        #: What its passes may hold, which may turn out to be less than ``limits``.
        self.budget = BatchBudget(limits)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.leases.queue.model

    @property
    def window(self) -> WindowLimits:
        """What closes this model's window."""
        size, tokens = self.limits.max_batch_size, self.limits.max_batch_tokens
        if self.max_wait_s is None:
            return WindowLimits(size, tokens, MAX_WAIT_S, is_learned=True)
        return WindowLimits(size, tokens, self.max_wait_s)

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Send a heartbeat; see `ModelStatus.heartbeat`."""
        details = {"wait_ms": milliseconds(self.wait_s), "ran_out_tokens": self.budget.ran_out_tokens}
        self.status.heartbeat(self.engine, len(self.leases.held), busy_s, details)

    def store_observations(self) -> None:
        """Add the observations to those of all workers; see `ModelStatus.store_observations`."""
        self.status.store_observations()

    @property
    def batching(self) -> Batching:
        """How its rows are put together now."""
        return Batching(self.limits.max_batch_size, self.max_wait_s)

    def set_batching(self, batching: Batching) -> None:
        """Let rows be of another size and wait."""
        self.max_wait_s = batching.max_wait_s
        self.limits = replace(self.limits, max_batch_size=batching.max_batch_size)
        self.budget.limits = replace(self.budget.limits, max_batch_size=batching.max_batch_size)

    def replace_engine(self, engine: Engine, limits: BatchLimits) -> None:
        """Go on with ``engine``, which is to get passes within ``limits``, but for their number of requests.

        To be called while nothing is held: what one engine prepared the other does not understand.
        """
        self.limits = replace(limits, max_batch_size=self.limits.max_batch_size)
        self.budget = BatchBudget(self.limits)
        self.engine = engine
        self.status.engine_replaced(engine)

    def endings(self, done: RunningBatch, closed_by: str) -> list[Request]:
        """Wait for the pass and say how each of its requests ended."""
        outcomes = collect_batch(done, self.budget)
        ended_s = time.monotonic()
        self._observe(done, ended_s, closed_by)
        started_s = done.started_s + self.leases.redis_offset_s
        of_pass = {
            "compute_ms": milliseconds(ended_s - done.started_s),
            "batch_size": len(done.members),
            "batch_tokens": done.batch.tokens,
            "padding_ratio": round(done.batch.padding_ratio, 4),
            "closed_by": closed_by,
            "worker": self.status.worker,
            "batch_id": f"{self.status.worker}-{self.status.process_id}-{done.number}",
        }
        return [
            one.set_outcome(
                outcome,
                started_s,
                {
                    "queue_ms": milliseconds(one.claimed_s - one.arrived_s),
                    "batch_wait_ms": milliseconds(done.started_s - one.claimed_s),
                    "total_ms": milliseconds(ended_s - one.arrived_s),
                    "attempts": one.attempt,
                    "tokens": one.prepared.tokens,
                    **of_pass,
                },
            )
            for one, outcome in zip(done.members, outcomes, strict=True)
        ]

    def _observe(self, done: RunningBatch, ended_s: float, closed_by: str) -> None:
        """Once a pass: with 30,000 requests a second, each is worth a fraction of a microsecond."""
        members, observed = done.members, self.status.observed
        observed.observe_each("queue", [one.claimed_s - one.arrived_s for one in members])
        observed.observe_each("batch_wait", [done.started_s - one.claimed_s for one in members])
        observed.observe("compute", ended_s - done.started_s, len(members))
        observed.observe_each("request", [ended_s - one.arrived_s for one in members])
        observed.observe("batch_size", len(members))
        observed.observe("batch_tokens", done.batch.tokens)
        observed.observe("padding_ratio", done.batch.padding_ratio)
        observed.count_batch(closed_by)
        observed.count_tokens("prompt", done.batch.asked_tokens)
