"""A run of a model that generates, request by request, with what its steps took.

A file as in `windrow.lab.measure.recording`. The first line is ``{"windrow_run": 1, "task": "generate", "model",
"strategy",
"max_batch_size", "max_batch_tokens", "cache_tokens", "page_tokens", "prefill_chunk_tokens", "devices", "runs",
"steps", ...}``, where ``steps`` has a list for each that ran: tokens, sequences, cached tokens, whether it read
prompts, seconds. Then one line a request:

| field | holds |
|---|---|
| ``arrival_s`` | when it was submitted, from the first one |
| ``tokens``, ``output_tokens`` | of its prompt and of its answer |
| ``queue_s``, ``first_s``, ``latency_s`` | from there until the engine had it, its first token and its last |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from windrow.lab.costs.cost import StepRuns, read_runs
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.measure.recording import ENOUGH
from windrow.lab.measure.run_file import (
    GENERATE,
    VERSION,
    TimedRequest,
    describe_read_error,
    read_head,
    read_lines,
    read_requests,
    write_lines,
)
from windrow.lab.simulate.generation import GenerationPolicy
from windrow.lab.simulate.workload import Workload

#: Steps are alike where the logarithms of their sizes are as near as this; of those, the share that is cut at each end.
STEP_SIZES, CUT = 0.2, 0.05


@dataclass(frozen=True, slots=True)
class RecordedAnswer(TimedRequest):
    """One request of a run; see the module."""

    tokens: int
    output_tokens: int
    queue_s: float
    first_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class GenerationRecording:
    """A run: under which settings, what became of each request in order of arrival, and the steps in theirs."""

    policy: GenerationPolicy
    devices: int
    #: How its device ran steps; what was timed is in the sizes that were captured.
    runs: StepRuns
    about: Mapping[str, Any]
    requests: Sequence[RecordedAnswer]
    steps: Sequence[TimedStep]

    @property
    def workload(self) -> Workload:
        """What arrived, and how much it was given."""
        rows = self.requests
        return Workload(
            [one.arrival_s for one in rows], [one.tokens for one in rows], [one.output_tokens for one in rows]
        )

    def typical_steps(self) -> list[TimedStep]:
        """One for all that are alike, sizes within a fifth: what the middle nine tenths of them took on average.

        So rare sizes count as much as those that nearly all steps have, and a machine that stood still counts little.
        """
        alike: dict[tuple[bool, int, int, int], list[TimedStep]] = {}
        for one in self.steps:
            sizes = (one.tokens, one.sequences, one.cached_tokens + 1)
            first, second, third = (round(math.log(size) / STEP_SIZES) for size in sizes)
            alike.setdefault((one.reads, first, second, third), []).append(one)
        return [_typical(steps) for steps in alike.values()]

    def handover_s(self) -> float:
        """From a submit until the engine had it, where there was room: the median; 0 where too few tell."""
        arrived_s = np.array([one.arrival_s for one in self.requests])
        ended_s = np.sort(arrived_s + np.array([one.latency_s for one in self.requests]))
        inside = np.arange(len(arrived_s)) - np.searchsorted(ended_s, arrived_s)
        size = self.policy.max_batch_size * self.devices
        free = [one.queue_s for one, beside in zip(self.requests, inside, strict=True) if beside < size]
        return median(free) if len(free) >= ENOUGH else 0.0


def _typical(steps: Sequence[TimedStep]) -> TimedStep:
    ordered = sorted(steps, key=lambda one: one.seconds)
    cut = round(len(ordered) * CUT)
    kept = ordered[cut : len(ordered) - cut]
    tokens, sequences, cached_tokens = (
        round(fmean(getattr(one, name) for one in kept)) for name in ("tokens", "sequences", "cached_tokens")
    )
    return TimedStep(tokens, sequences, cached_tokens, steps[0].reads, fmean(one.seconds for one in kept))


def write_generation(path: Path, recording: GenerationRecording) -> None:
    """Write it as the module says."""
    policy = asdict(recording.policy)
    head = {
        "windrow_run": VERSION, "task": GENERATE, **recording.about, "devices": recording.devices,
        "runs": asdict(recording.runs), "strategy": policy.pop("name"), **policy,
        "steps": [astuple(one) for one in recording.steps],
    }  # fmt: skip
    write_lines(path, head, recording.requests)


def read_generation(path: Path) -> GenerationRecording:
    """Read it back. Raises `ValueError` with the file, the line and what is wrong there."""
    lines = read_lines(path)
    try:
        head = dict(read_head(lines))
        if head.get("task") != GENERATE:
            raise ValueError("a run of a model that answers in one pass; takes one of a model that generates")
        names = ("max_batch_size", "max_batch_tokens", "cache_tokens", "page_tokens", "prefill_chunk_tokens")
        sizes = [int(head[name]) for name in names]
        if min(sizes) < 1:
            raise ValueError(f"takes {', '.join(names)} of 1 or more")
        policy = GenerationPolicy(str(head["strategy"]), *sizes)
        devices, runs = int(head["devices"]), read_runs(head["runs"])
        steps = [_step(row) for row in head.pop("steps")]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}, line 1: {describe_read_error(error)}") from None
    return GenerationRecording(policy, devices, runs, head, read_requests(path, lines, _answer), steps)


def _step(row: Sequence[Any]) -> TimedStep:
    tokens, sequences, cached_tokens, reads, seconds = row
    step = TimedStep(int(tokens), int(sequences), int(cached_tokens), bool(reads), float(seconds))
    if not 0 < step.seconds < math.inf or min(step.tokens, step.sequences) < 1 or step.cached_tokens < 0:
        raise ValueError(f"step {list(row)}: takes tokens and sequences of 1 or more, and more than 0 s")
    return step


def _answer(row: Mapping[str, Any]) -> RecordedAnswer:
    one = RecordedAnswer(
        arrival_s=float(row["arrival_s"]), tokens=int(row["tokens"]), output_tokens=int(row["output_tokens"]),
        queue_s=float(row["queue_s"]), first_s=float(row["first_s"]), latency_s=float(row["latency_s"]),
    )  # fmt: skip
    times = (one.arrival_s, one.queue_s, one.first_s, one.latency_s)
    if not all(0 <= at_s < math.inf for at_s in times) or min(one.tokens, one.output_tokens) < 1:
        raise ValueError("takes times of 0 s or more, and tokens of 1 or more")
    if one.first_s > one.latency_s:
        raise ValueError(f"its first token came after {one.first_s} s, its last after {one.latency_s} s")
    return one
