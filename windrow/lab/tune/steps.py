"""Measures the decode steps of a model that generates, and recommends settings.

The production engine runs as it does in the step loop: some sequences decode while prompts are prefilled, one step
ahead of the device.
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

#: Pure decode steps before a measurement, and per measurement.
STEPS, TOGETHER = 16, 4
#: Prompts that are prefilled together beside decoding sequences, tokens of each, and repetitions of each measurement
#: if half of the time is enough.
VISITS = ((1, 16), (1, 64), (1, 192), (1, 448), (1, 960), (1, 1900), (4, 16), (4, 100), (4, 240), (12, 40))
VISITED = 3
#: Context lengths of decoding sequences, as shares of the longest.
CONTEXTS = (0.02, 0.12, 0.4)
#: Share of the KV cache that decoding sequences may fill.
FILLED = 0.8
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """Measurement of one number of decoding sequences with one total size of KV cache."""

    sequences: int
    cached_tokens: int
    tokens_per_s: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class StepTimings:
    """The measurements up to the end of the time."""

    steps: list[TimedStep]
    curve: list[DecodePoint]
    #: Numbers of sequences and contexts that the time did not allow.
    left_out: int


def tune_generation(
    name: str, settings: ModelSettings, seconds: float, max_batch_size: int, say: Say
) -> tuple[EngineInfo, StepTimings]:
    """Load the model and measure it with `time_steps`."""
    from windrow.worker.engines.generation.engine import GenerateEngine
    from windrow.worker.engines.loading import load_engine

    asked = settings.model_copy(update={"strategy": "continuous", "max_batch_size": max_batch_size})
    engine = load_engine(name, asked)
    assert isinstance(engine, GenerateEngine)
    vocabulary = load_text_limit(settings.source).tokenizer.get_vocab_size()
    rig = Rig(engine, vocabulary, asked.prefill_chunk_tokens)
    return engine.info, time_steps(rig, seconds, say)


def time_steps(rig: Rig, seconds: float, say: Say) -> StepTimings:
    """Measure 1, 2, 4, ... decoding sequences with contexts of several lengths, and prefills beside them.

    Small sizes come first; no measurement starts after ``seconds``.
    """
    end_s = time.monotonic() + seconds
    cases = sorted(rig.cases(), key=lambda case: (case[0] * case[1], case))
    visits_s = seconds / 2 / (len(cases) + 1)
    rig.run(min(2, rig.most), rig.contexts[0], visits_s)  # warms up what happens at the first call only
    steps = [*rig.run(0, 0, visits_s)]
    curve: list[DecodePoint] = []
    for done, (sequences, context) in enumerate(cases):
        if curve and time.monotonic() > end_s:
            return StepTimings(steps, curve, len(cases) - done)
        timed = rig.run(sequences, context, visits_s)
        steps += timed
        curve.append(_point([one for one in timed if not one.reads]))
        say(f"{sequences} decode over {context} tokens each: {curve[-1].step_ms:.2f} ms per step")
    return StepTimings(steps, curve, 0)


def recommend_steps(cost: DecodeCost, timings: StepTimings, max_batch_tokens: int) -> dict[str, int]:
    """Return the smallest settings with nearly the best throughput, for decoding sequences and for prefill."""
    context = median(point.cached_tokens / point.sequences for point in timings.curve)
    rates = {
        count: count / cost.seconds(count, count, round(count * context), reads=False)
        for count in sorted({point.sequences for point in timings.curve})
    }
    sequences = next(count for count, rate in rates.items() if rate >= ENOUGH * max(rates.values()))
    # With a chunk of this size, the fixed cost of a forward pass is a share of 1 - ENOUGH.
    wanted = cost.read_s / cost.token_s * ENOUGH / (1 - ENOUGH) if cost.token_s else math.inf
    chunk = min(1 << (math.ceil(min(max(wanted, 64), max_batch_tokens)) - 1).bit_length(), max_batch_tokens)
    return {"max_batch_size": sequences, "prefill_chunk_tokens": chunk}


class Rig:
    """An engine and the requests that measure it; nothing else uses the engine."""

    def __init__(self, engine: Any, vocabulary: int, most_read: int) -> None:
        """``most_read`` is the number of prompt tokens that a step prefills beside decoding sequences."""
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
        #: Prompt lengths, which leave room for an answer.
        self.contexts = sorted({max(1, int(share * self._context)) for share in CONTEXTS})

    def cases(self) -> Iterator[tuple[int, int]]:
        """Return numbers of sequences with their contexts, as far as they fit into the KV cache."""
        steps = STEPS + VISITED * 2 * len(VISITS)
        for sequences in [
            *(1 << power for power in range(self.most.bit_length()) if 1 << power < self.most),
            self.most,
        ]:
            for context in self.contexts:
                if sequences * (context + steps) <= FILLED * self._cache_tokens:
                    yield sequences, context

    def run(self, sequences: int, context: int, visits_s: float) -> list[TimedStep]:
        """Return the median times of pure decode steps, and of steps that also prefill."""
        base = self._add(sequences, context, self._context - context)
        self._step_until(base, lambda delta: delta.first)
        self._timed.clear()
        for _ in range(STEPS):
            self._step()
        # The step of the last prefill is followed by a step of another kind, which its time would include.
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
        """Add requests without a common prefix; returns their names."""
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
        """Run steps until each of ``names`` had an output for which ``is_due``."""
        left = set(names)
        while left:
            for delta in self._step():
                if isinstance(delta.outcome, Failed):
                    raise delta.outcome.error
                if is_due(delta):
                    left.discard(delta.id)

    def _step(self) -> list[Delta]:
        """Start a step; then collect it, or the previous one if the device runs ahead."""
        handle = self._engine.step()
        if handle is not None:
            self._under_way.append(handle)
        if self._under_way and (handle is None or len(self._under_way) > self._ahead):
            return self._engine.collect(self._under_way.popleft())
        return []


def _middle(steps: Sequence[TimedStep]) -> TimedStep:
    """Return one step that represents steps of the same size."""
    cached_tokens = round(fmean(one.cached_tokens for one in steps))
    return replace(steps[0], cached_tokens=cached_tokens, seconds=median(one.seconds for one in steps))


def _point(decoding: Sequence[TimedStep]) -> DecodePoint:
    step_s = fmean(one.seconds for one in decoding)
    first = decoding[0]
    return DecodePoint(first.sequences, first.cached_tokens, first.sequences / step_s, step_s * 1e3)
