"""From inputs to outputs, and what happens when a call for many raises: it is split until the culprit stands alone."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from windrow.errors import ModelFailed, OutOfMemory
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches
from windrow.scheduler.queue import Request
from windrow.worker.engines.base import BatchRaised, Engine, EngineBase, Prepared

log = logging.getLogger(__name__)
_numbers = itertools.count(1)
#: Passes are planned to this share of what did not fit: the next one of nearly the same size would not fit either.
KEPT_AFTER_OUT_OF_MEMORY = 0.75


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """One forward pass that was started, or one request that failed alone."""

    #: Which was given the pass, and has its outcomes.
    engine: Engine
    batch: Batch
    members: list[Request]
    #: For `Engine.collect`; None where ``error`` is set.
    handle: Any
    error: Failed | None
    #: `time.monotonic` when the device got it.
    started_s: float
    #: Counted from 1 in this process.
    number: int


class BatchBudget:
    """What a pass of one model may hold: the limits that were set, less what the device turned out not to hold."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        #: The smallest pass that ran out of memory, in tokens after padding; None where none has.
        self.ran_out_tokens: int | None = None

    def ran_out(self, tokens: int) -> None:
        """Remember that a pass of so many tokens ran out of memory: those planned from now on are smaller."""
        if self.ran_out_tokens is None or tokens < self.ran_out_tokens:
            self.ran_out_tokens = tokens
            self.limits = replace(self.limits, max_batch_tokens=max(1, int(tokens * KEPT_AFTER_OUT_OF_MEMORY)))


def prepare_inputs(
    engine: EngineBase, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]
) -> list[Prepared | Failed]:
    """`Engine.prepare`, for each input alone where the call for all of them raises."""
    try:
        return engine.prepare(inputs, parameters)
    except Exception as error:
        log.warning(
            "model %s: preparing %d inputs raised %s", engine.info.model, len(inputs), describe_exception(error)
        )
        if len(inputs) == 1:
            return [Failed(ModelFailed(f"preparing this input raised {type(error).__name__}"))]
    return [
        one
        for input, wishes in zip(inputs, parameters, strict=True)
        for one in prepare_inputs(engine, [input], [wishes])
    ]


def run_window(engine: Engine, waiting: Sequence[Request], budget: BatchBudget) -> Iterator[RunningBatch]:
    """Plan ``waiting`` by the engine's strategy and run it, yielding each pass as soon as it was started.

    A pass that raises is run again as two halves, so that one bad request costs its neighbours time and nothing else.
    """
    sizes = [one.prepared.size for one in waiting]
    for batch in plan_batches(engine.info.strategy, sizes, budget.limits):
        members = [waiting[index] for index in batch.indices]
        started_s = time.monotonic()
        handle, failed = _forward(engine, members, batch)
        if failed is None or len(members) == 1:
            yield RunningBatch(engine, batch, members, handle, failed, started_s, next(_numbers))
        else:
            log.warning("a batch of %d (%d tokens) failed: running its halves", len(members), batch.tokens)
            middle = len(members) // 2
            was_size = isinstance(failed.error, OutOfMemory)
            for half in (members[:middle], members[middle:]):
                for one in run_window(engine, half, budget):
                    # One that is too much by itself says nothing of batches.
                    was_size = was_size and one.error is None
                    yield one
            if was_size:
                budget.ran_out(batch.tokens)


def collect_batch(done: RunningBatch, budget: BatchBudget) -> list[Outcome]:
    """Wait for the pass; what became of each of its members, in their order.

    One that raised only now is run again as two halves, as in `run_window`.
    """
    if done.error:
        return [done.error]
    try:
        outcomes = done.engine.collect(done.handle)
    except BatchRaised as raised:
        return _collect_halves(done, budget, raised.cause)
    if len(outcomes) == len(done.members):
        return outcomes
    wrong = f"the engine gave {len(outcomes)} outputs for {len(done.members)} inputs"
    return [Failed(ModelFailed(wrong))] * len(done.members)


def _collect_halves(done: RunningBatch, budget: BatchBudget, cause: Exception) -> list[Outcome]:
    log.warning("a batch of %d (%d tokens) raised %s", len(done.members), done.batch.tokens, describe_exception(cause))
    if len(done.members) == 1:
        return [failure_of(cause)]
    middle = len(done.members) // 2
    outcomes: dict[str, Outcome] = {}
    for half in (done.members[:middle], done.members[middle:]):
        for one in run_window(done.engine, half, budget):
            ids = [member.id for member in one.members]
            outcomes.update(zip(ids, collect_batch(one, budget), strict=True))
    return [outcomes[member.id] for member in done.members]


def _forward(engine: Engine, members: Sequence[Request], batch: Batch) -> tuple[Any, Failed | None]:
    """Start one pass; what it raised becomes a `Failed`, and what it had in memory is let go on return."""
    try:
        return engine.forward([one.prepared for one in members], batch), None
    except Exception as error:
        if is_sticky(error):
            raise
        log.warning("a forward pass raised %s", describe_exception(error))
        return None, failure_of(error)


def is_sticky(error: Exception) -> bool:
    """Whether nothing runs on the device any more, whoever's fault it was: the process has to end, and the leases
    bring its requests back. Matched by name: this module is read before torch is.
    """
    return type(error).__name__ == "AcceleratorError"


def failure_of(error: Exception) -> Failed:
    """What a request hears whose pass raised although it was alone in it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failed(OutOfMemory("the device ran out of memory on this input alone; send a shorter one"))
    return Failed(ModelFailed(f"the model raised {type(error).__name__} on this input"))
