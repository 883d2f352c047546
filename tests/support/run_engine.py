"""Runs an engine as the worker does: prepare, plan, forward, collect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.core.planning import plan_batches
from windrow.worker.engines.base import Engine, Prepared
from windrow.worker.engines.loading import batch_limits


def answers(
    engine: Engine,
    settings: ModelSettings,
    inputs: Sequence[Any],
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
) -> list[Any]:
    """Return the outcomes of ``inputs``, in order; ``parameters`` are those of each input, or the same for all."""
    if isinstance(parameters, Mapping) or not parameters:
        parameters = [dict(parameters)] * len(inputs)
    outcomes: list[Any] = list(engine.prepare(inputs, parameters))
    valid = [index for index, item in enumerate(outcomes) if not isinstance(item, Failed)]
    for index, outcome in zip(valid, run_prepared(engine, settings, [outcomes[at] for at in valid]), strict=True):
        outcomes[index] = outcome
    return outcomes


def run_prepared(engine: Engine, settings: ModelSettings, prepared: Sequence[Prepared]) -> list[Any]:
    """Return the outcomes of prepared requests, in order."""
    outcomes: list[Any] = [None] * len(prepared)
    limits = batch_limits(settings, engine.info)
    for batch in plan_batches(engine.info.strategy, [request.size for request in prepared], limits):
        handle = engine.forward([prepared[index] for index in batch.indices], batch)
        for index, outcome in zip(batch.indices, engine.collect(handle), strict=True):
            outcomes[index] = outcome
    return outcomes
