"""One model whose requests run in rows: its queue, its engine, and what its passes may hold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from windrow.scheduler.core.learned_window import FIRST_WAIT_S, MAX_WAIT_S
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits
from windrow.scheduler.queue import FinishedRequest, RedisQueue
from windrow.worker.batches.forward import BatchBudget, RunningBatch, collect_batch
from windrow.worker.engines.base import Engine
from windrow.worker.leases.leases import Leases, milliseconds
from windrow.worker.process.model_requests import Batching


class BatchModel(Leases):
    """A `Leases` whose requests are planned into passes."""

    engine: Engine

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
        super().__init__(queue, engine, lease_s, worker, is_spare=is_spare)
        self.limits = limits
        #: None where it is learnt.
        self.max_wait_s = max_wait_s
        #: The window in use, as the resident last said.
        self.wait_s = FIRST_WAIT_S if max_wait_s is None else max_wait_s
        #: What its passes may hold, which may turn out to be less than ``limits``.
        self.budget = BatchBudget(limits)

    @property
    def window(self) -> WindowLimits:
        """What closes this model's window."""
        size, tokens = self.limits.max_batch_size, self.limits.max_batch_tokens
        if self.max_wait_s is None:
            return WindowLimits(size, tokens, MAX_WAIT_S, is_learnt=True)
        return WindowLimits(size, tokens, self.max_wait_s)

    def describe(self) -> Mapping[str, Any]:
        """What heartbeats say beside the engine's own description."""
        return {"wait_ms": milliseconds(self.wait_s), "ran_out_tokens": self.budget.ran_out_tokens}

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
        self._forget_engine_times()

    def endings(self, done: RunningBatch, closed_by: str) -> list[FinishedRequest]:
        """Wait for the pass and say how each of its requests ended."""
        outcomes = collect_batch(done, self.budget)
        ended_s = time.monotonic()
        self._observe(done, ended_s, closed_by)
        started_s = done.started_s + self.redis_offset_s
        of_pass = {
            "compute_ms": milliseconds(ended_s - done.started_s),
            "batch_size": len(done.members),
            "batch_tokens": done.batch.tokens,
            "padding_ratio": round(done.batch.padding_ratio, 4),
            "closed_by": closed_by,
            "worker": self.worker,
            "batch_id": f"{self.worker}-{self.started}-{done.number}",
        }
        return [
            FinishedRequest(
                one.request,
                outcome,
                started_s,
                {
                    "queue_ms": milliseconds(one.claimed_s - one.arrived_s),
                    "batch_wait_ms": milliseconds(done.started_s - one.claimed_s),
                    "total_ms": milliseconds(ended_s - one.arrived_s),
                    "attempts": one.request.attempt,
                    "tokens": one.prepared.tokens,
                    **of_pass,
                },
            )
            for one, outcome in zip(done.members, outcomes, strict=True)
        ]

    def _observe(self, done: RunningBatch, ended_s: float, closed_by: str) -> None:
        """Once a pass: with 30,000 requests a second, each is worth a fraction of a microsecond."""
        members, observed = done.members, self.observed
        observed.observe_each("queue", [one.claimed_s - one.arrived_s for one in members])
        observed.observe_each("batch_wait", [done.started_s - one.claimed_s for one in members])
        observed.observe("compute", ended_s - done.started_s, len(members))
        observed.observe_each("request", [ended_s - one.arrived_s for one in members])
        observed.observe("batch_size", len(members))
        observed.observe("batch_tokens", done.batch.tokens)
        observed.observe("padding_ratio", done.batch.padding_ratio)
        observed.count_batch(closed_by)
        observed.count_tokens("prompt", done.batch.asked_tokens)
