"""Timing the steps of a model that generates, and what follows for its settings.

The engine of production steps as it serves: some sequences decode, and prompts come in beside them, one step ahead of
the device as in the resident loop.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from windrow.lab.costs.cost import DecodeCost
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.tune.passes import ENOUGH
from windrow.lab.tune.step_timing import TimedSteps, runs_of
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.worker.engines.base import Delta, EngineInfo

#: Steps in which everybody decodes and nobody reads, and how many of them are one measurement.
STEPS, TOGETHER = 16, 4
#: Prompts that come beside those that decode, at once, and tokens of each; every such visit is measured so often where
#: half of the time is enough for that.
VISITS = ((1, 16), (1, 64), (1, 192), (1, 448), (1, 960), (1, 1900), (4, 16), (4, 100), (4, 240), (12, 40))
VISITED = 3
#: Contexts of those that decode, as shares of the longest.
CONTEXTS = (0.02, 0.12, 0.4)
#: The part of the cache that those who decode may fill.
FILLED = 0.8
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """So many sequences that decode, with so many tokens in the cache in all."""

    sequences: int
    cached_tokens: int
    tokens_per_s: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class StepTimings:
    """What was timed before the time was over."""

    steps: list[TimedStep]
    curve: list[DecodePoint]
    #: Numbers of sequences and contexts that there was no time for.
    left_out: int


def tune_generation(
    name: str, settings: ModelSettings, seconds: float, max_batch_size: int, say: Say
) -> tuple[EngineInfo, StepTimings]:
    """Load the model and time it as `time_steps` does."""
    from windrow.worker.engines.generation.engine import GenerateEngine
    from windrow.worker.engines.loading import load_engine

    asked = settings.model_copy(update={"strategy": "continuous", "max_batch_size": max_batch_size})
    engine = load_engine(name, asked)
    assert isinstance(engine, GenerateEngine)
    vocabulary = load_text_limit(settings.source).tokenizer.get_vocab_size()
    rig = Rig(engine, vocabulary, asked.prefill_chunk_tokens)
    return engine.info, time_steps(rig, seconds, say)


def time_steps(rig: Rig, seconds: float, say: Say) -> StepTimings:
    """Time 1, 2, 4, ... sequences that decode over caches of several lengths, and prompts beside them.

    The small ones come first; none is begun once ``seconds`` are over.
    """
    end_s = time.monotonic() + seconds
    cases = sorted(rig.cases(), key=lambda case: (case[0] * case[1], case))
    visits_s = seconds / 2 / (len(cases) + 1)
    rig.run(min(2, rig.most), rig.contexts[0], visits_s)  # what is done at the first call only
    steps = [*rig.run(0, 0, visits_s)]
    curve: list[DecodePoint] = []
    for done, (sequences, context) in enumerate(cases):
        if curve and time.monotonic() > end_s:
            return StepTimings(steps, curve, len(cases) - done)
        timed = rig.run(sequences, context, visits_s)
        steps += timed
        curve.append(_point([one for one in timed if not one.reads]))
        say(f"{sequences} decode over {context} tokens each: {curve[-1].step_ms:.2f} ms a step")
    return StepTimings(steps, curve, 0)


def recommend_steps(cost: DecodeCost, timings: StepTimings, max_batch_tokens: int) -> dict[str, int]:
    """Settings: the smallest with about the best throughput, of sequences that decode and of prompts that are read."""
    context = median(point.cached_tokens / point.sequences for point in timings.curve)
    rates = {
        count: count / cost.seconds(count, count, round(count * context), reads=False)
        for count in sorted({point.sequences for point in timings.curve})
    }
    sequences = next(count for count, rate in rates.items() if rate >= ENOUGH * max(rates.values()))
    # Of a chunk of so many tokens, 1 - ENOUGH is what any pass costs.
    wanted = cost.read_s / cost.token_s * ENOUGH / (1 - ENOUGH) if cost.token_s else math.inf
    chunk = min(1 << (math.ceil(min(max(wanted, 64), max_batch_tokens)) - 1).bit_length(), max_batch_tokens)
    return {"max_batch_size": sequences, "prefill_chunk_tokens": chunk}


class Rig:
    """An engine, and what it is asked; nothing else asks it."""

    def __init__(self, engine: Any, vocabulary: int, most_read: int) -> None:
        """``most_read`` are the tokens of prompts that a step reads beside those who decode."""
        self._timed: list[TimedStep] = []
        self._engine = TimedSteps(engine, self._timed.append)
        self._numbers, self._vocabulary, self._most_read = random.Random(1), vocabulary, most_read
        self._under_way: deque[Any] = deque()
        self._ahead = runs_of(engine.info).ahead
        self._names = 0
        info = engine.info
        self._context = info.max_input_tokens
        self._cache_tokens = info.pages * info.page_tokens
        self.most: int = info.max_sequences
        #: Lengths of prompts; what comes after them has room too.
        self.contexts = sorted({max(1, int(share * self._context)) for share in CONTEXTS})

    def cases(self) -> Iterator[tuple[int, int]]:
        """Numbers of sequences and their contexts, as far as the cache holds them."""
        steps = STEPS + VISITED * 2 * len(VISITS)
        for sequences in [
            *(1 << power for power in range(self.most.bit_length()) if 1 << power < self.most),
            self.most,
        ]:
            for context in self.contexts:
                if sequences * (context + steps) <= FILLED * self._cache_tokens:
                    yield sequences, context

    def run(self, sequences: int, context: int, visits_s: float) -> list[TimedStep]:
        """Medians of steps in which so many decode, and of those in which prompts come beside them."""
        base = self._add(sequences, context, self._context - context)
        self._step_until(base, lambda delta: delta.first)
        self._timed.clear()
        for _ in range(STEPS):
            self._step()
        # What ran while the last prompts were read was not followed by a step of the same kind.
        decoding = [one for one in self._timed if not one.reads][1:]
        made = [_middle(decoding[at : at + TOGETHER]) for at in range(0, len(decoding), TOGETHER)]
        self._timed.clear()
        until_s = time.monotonic() + visits_s
        for count, tokens in self._numbers.sample(VISITS * VISITED, VISITED * len(VISITS)):
            fits = sequences + count <= self.most and count * tokens <= self._most_read and tokens < self._context
            if fits and time.monotonic() < until_s:
                self._step_until(self._add(count, tokens, 1), lambda delta: delta.outcome is not None)
        by_size: dict[tuple[int, int], list[TimedStep]] = {}
        for one in self._timed:
            if one.reads:
                by_size.setdefault((one.tokens, one.sequences), []).append(one)
        made += [_middle(alike) for alike in by_size.values()]
        for id in base:
            self._engine.cancel(id)
        while self._step() or self._under_way:
            pass
        self._engine.forget()
        return made

    def _add(self, count: int, tokens: int, max_tokens: int) -> set[str]:
        """Queue requests, no two of which begin alike; their names."""
        names = set()
        for _ in range(count):
            ids = self._numbers.choices(range(self._vocabulary), k=tokens)
            (prepared,) = self._engine.prepare([{"prompt_ids": ids}], [{"max_tokens": max_tokens, "ignore_eos": True}])
            if isinstance(prepared, Failed):
                raise prepared.error
            self._names += 1
            self._engine.add(name := str(self._names), prepared)
            names.add(name)
        return names

    def _step_until(self, names: set[str], is_due: Callable[[Delta], bool]) -> None:
        """Step until something that ``is_due`` came of each of ``names``."""
        left = set(names)
        while left:
            for delta in self._step():
                if isinstance(delta.outcome, Failed):
                    raise delta.outcome.error
                if is_due(delta):
                    left.discard(delta.id)

    def _step(self) -> list[Delta]:
        """Start a step; then collect it, or the one before it where the device goes on meanwhile."""
        handle = self._engine.step()
        if handle is not None:
            self._under_way.append(handle)
        if self._under_way and (handle is None or len(self._under_way) > self._ahead):
            return self._engine.collect(self._under_way.popleft())
        return []


def _middle(steps: Sequence[TimedStep]) -> TimedStep:
    """One that stands for steps of the same sizes."""
    cached_tokens = round(fmean(one.cached_tokens for one in steps))
    return replace(steps[0], cached_tokens=cached_tokens, seconds=median(one.seconds for one in steps))


def _point(decoding: Sequence[TimedStep]) -> DecodePoint:
    step_s = fmean(one.seconds for one in decoding)
    first = decoding[0]
    return DecodePoint(first.sequences, first.cached_tokens, first.sequences / step_s, step_s * 1e3)
