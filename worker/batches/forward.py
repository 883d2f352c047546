"""Runs the requests of a closed window as batches, and splits a batch that fails until the failing request is alone."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from windrow.errors import ModelFailed, OutOfMemory
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches
from windrow.scheduler.queue import Request
from windrow.worker.engines.base import BatchRaised, Engine
from windrow.worker.engines.failures import failure_of, is_sticky

log = logging.getLogger(__name__)
_numbers = itertools.count(1)
#: After a batch ran out of memory, later batches have at most this share of its tokens, because a slightly smaller one
#: would not fit either.
SHARE_AFTER_OUT_OF_MEMORY = 0.75


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """One batch whose forward pass has started, or whose only request failed when it was started."""

    #: The engine that runs the batch and returns its outputs.
    engine: Engine
    batch: Batch
    requests: list[Request]
    #: The return value of `Engine.forward`, for `Engine.collect`; None if ``error`` is set.
    handle: Any
    error: Failed | None
    #: `time.monotonic` at the start.
    started_s: float
    #: The number of the batch, counted from 1 in this process.
    number: int


class BatchBudget:
    """The limits of the batches of one model: those configured, or less if the device ran out of memory."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        #: Size of the smallest batch that ran out of memory, in tokens after padding; None if none did.
        self.ran_out_tokens: int | None = None

    def shrink(self, tokens: int) -> None:
        """Plan smaller batches from now on, because one of ``tokens`` ran out of memory."""
        if self.ran_out_tokens is None or tokens < self.ran_out_tokens:
            self.ran_out_tokens = tokens
            self.limits = replace(self.limits, max_batch_tokens=max(1, int(tokens * SHARE_AFTER_OUT_OF_MEMORY)))


def run_window(engine: Engine, requests: Sequence[Request], budget: BatchBudget) -> Iterator[RunningBatch]:
    """Plan ``requests`` into batches with the engine's strategy, start them, and yield each as soon as it has started.

    A batch that raises is run again as two halves, so that one bad request delays the others but does not fail them.
    """
    sizes = [request.prepared.size for request in requests]
    for batch in plan_batches(engine.info.strategy, sizes, budget.limits):
        members = [requests[index] for index in batch.indices]
        started_s = time.monotonic()
        handle, failed = _forward(engine, members, batch)
        if failed is None or len(members) == 1:
            yield RunningBatch(engine, batch, members, handle, failed, started_s, next(_numbers))
            continue
        log.warning("a batch of %d requests (%d tokens) failed; running its halves", len(members), batch.tokens)
        middle = len(members) // 2
        is_too_large = isinstance(failed.error, OutOfMemory)
        for half in (members[:middle], members[middle:]):
            for running in run_window(engine, half, budget):
                # If a request does not fit even alone, smaller batches would not help.
                is_too_large = is_too_large and running.error is None
                yield running
        if is_too_large:
            budget.shrink(batch.tokens)


def collect_batch(running: RunningBatch, budget: BatchBudget) -> list[Outcome]:
    """Wait for a batch and return the outcome of each request, in order.

    A batch that raises only now is run again as two halves, as in `run_window`.
    """
    if running.error:
        return [running.error]
    try:
        outcomes = running.engine.collect(running.handle)
    except BatchRaised as raised:
        return _collect_halves(running, budget, raised.cause)
    if len(outcomes) == len(running.requests):
        return outcomes
    detail = f"the engine returned {len(outcomes)} outputs for {len(running.requests)} inputs"
    return [Failed(ModelFailed(detail))] * len(running.requests)


def _collect_halves(running: RunningBatch, budget: BatchBudget, cause: Exception) -> list[Outcome]:
    requests = running.requests
    log.warning(
        "a batch of %d requests (%d tokens) raised %s", len(requests), running.batch.tokens, describe_exception(cause)
    )
    if len(requests) == 1:
        return [failure_of(cause)]
    middle = len(requests) // 2
    outcomes: dict[str, Outcome] = {}
    for half in (requests[:middle], requests[middle:]):
        for part in run_window(running.engine, half, budget):
            outcomes.update(zip([request.id for request in part.requests], collect_batch(part, budget), strict=True))
    return [outcomes[request.id] for request in requests]


def _forward(engine: Engine, requests: Sequence[Request], batch: Batch) -> tuple[Any, Failed | None]:
    """Start one batch; return an exception as `Failed`, because its traceback would keep memory of the batch in use."""
    try:
        return engine.forward([request.prepared for request in requests], batch), None
    except Exception as error:
        if is_sticky(error):
            raise
        log.warning("a forward pass raised %s", describe_exception(error))
        return None, failure_of(error)
