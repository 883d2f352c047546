"""Measures the batches of a loaded model, and recommends settings."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from windrow.lab.costs.fitting import TimedPass
from windrow.lab.primitives.sizing import is_out_of_memory
from windrow.lab.sample_texts import mixed_texts
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import BatchLimits, plan_batches
from windrow.worker.engines.base import Engine, EngineInfo, Prepared

#: Calls per measurement: the first one warms up, and the median of the others counts.
CALLS = 4
#: Different batches per size.
ROWS = 4
#: The smallest batch that reaches this share of the best throughput is recommended.
ENOUGH = 0.95
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Measurements of one batch size with mixed lengths."""

    batch_size: int
    throughput_per_s: float
    tokens_per_s: float
    latency_ms: float
    #: Tokens of the largest batch of this size.
    tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """The measurements up to the end of memory or time."""

    passes: list[TimedPass]
    curve: list[CurvePoint]
    #: Tokens of the batch that did not fit into memory; None if all did.
    ran_out_tokens: int | None
    #: Whether time ran out before the largest batches.
    is_cut: bool = False


def time_passes(
    engine: Engine, prepared: Sequence[Prepared], strategy: str, limits: BatchLimits, seconds: float, say: Say
) -> Timings:
    """Measure batches of 1, 2, 4, ... ``max_batch_size`` requests, with mixed and with equal lengths.

    Stops cleanly when memory runs out, and starts no new size after ``seconds``. Batches have the captured sizes in
    ``limits``.
    """
    numbers = random.Random(1)
    by_length = sorted(prepared, key=lambda one: one.tokens)
    passes: list[TimedPass] = []
    curve: list[CurvePoint] = []
    end_s = time.monotonic() + seconds
    size = 1
    while size <= limits.max_batch_size:
        if curve and time.monotonic() > end_s:
            return Timings(passes, curve, None, is_cut=True)
        mixed: list[TimedPass] = []
        for row in _rows(by_length, size, numbers):
            is_mixed = len(mixed) < ROWS
            try:
                timed = _time_row(engine, row, strategy, limits)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                say(f"{strategy}: a batch of {size} requests does not fit into memory: stopping there")
                return Timings(passes, curve, sum(one.tokens for one in row))
            passes.append(timed)
            if is_mixed:
                mixed.append(timed)
        curve.append(_point(size, mixed))
        say(f"{strategy}: {size} at once: {curve[-1].throughput_per_s:.1f}/s, {curve[-1].latency_ms:.1f} ms")
        size *= 2
    return Timings(passes, curve, None)


def recommend(curve: Sequence[CurvePoint]) -> CurvePoint:
    """Return the settings for the smallest batch with nearly the best throughput; a larger one only adds latency."""
    best = max(point.throughput_per_s for point in curve)
    return next(point for point in curve if point.throughput_per_s >= ENOUGH * best)


def _rows(by_length: Sequence[Prepared], size: int, numbers: random.Random) -> Iterator[list[Prepared]]:
    """Return mixed batches, then batches of short, medium and long requests, so that the fit covers all lengths."""
    for _ in range(ROWS):
        yield numbers.choices(by_length, k=size)
    for share in (0.1, 0.5, 0.9, 1.0):
        end = max(size, int(share * len(by_length)))
        yield list(by_length[max(0, end - size) : end])


def _time_row(engine: Engine, row: Sequence[Prepared], strategy: str, limits: BatchLimits) -> TimedPass:
    lengths = [one.tokens for one in row]
    # One batch without limits, because the limits are what the measurement determines.
    unbounded = replace(limits, max_batch_size=len(row), max_batch_tokens=1 << 40, static_length=max(lengths))
    (batch,) = plan_batches(strategy, lengths, unbounded)
    took_s = []
    for _ in range(CALLS):
        began_s = time.perf_counter()
        engine.collect(engine.forward(row, batch))
        took_s.append(time.perf_counter() - began_s)
    median_s = sorted(took_s[1:])[(CALLS - 1) // 2]
    computed = lengths if batch.padded_length is None else [batch.padded_length] * len(row)
    return TimedPass(batch.tokens, tuple(computed), median_s)


def _point(size: int, timed: Sequence[TimedPass]) -> CurvePoint:
    total_s = sum(one.seconds for one in timed)
    return CurvePoint(
        batch_size=size,
        throughput_per_s=size * len(timed) / total_s,
        tokens_per_s=sum(one.tokens for one in timed) / total_s,
        latency_ms=total_s / len(timed) * 1e3,
        tokens=max(one.tokens for one in timed),
    )


def tune_model(
    name: str, settings: ModelSettings, seconds: float, max_batch_size: int, say: Say
) -> tuple[EngineInfo, dict[str, Timings], int]:
    """Load the model and measure it; returns engine info, timings of padded and packed batches, and the core count."""
    import torch

    from windrow.worker.engines.loading import batch_limits, load_batch_engine

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    asked = settings.model_copy(update={"max_batch_size": max_batch_size})
    engine = load_batch_engine(name, asked)
    limits = batch_limits(asked, engine.info)
    texts = mixed_texts(512)
    ready = engine.prepare(texts, [{"truncate": True}] * len(texts))
    prepared = [one for one in ready if isinstance(one, Prepared)]
    kinds = ["dynamic", *(["packed"] if engine.info.strategy == "packed" else [])]
    timings = {kind: time_passes(engine, prepared, kind, limits, seconds / len(kinds), say) for kind in kinds}
    return engine.info, timings, cores if engine.info.device == "cpu" else 1
