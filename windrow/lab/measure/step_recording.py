"""A recorded run of a model that generates, request by request, with the time of each decode step.

The file is as in `windrow.lab.measure.recording`. The first line is ``{"windrow_run": 1, "task": "generate", "model",
"strategy",
"max_batch_size", "max_batch_tokens", "cache_tokens", "page_tokens", "prefill_chunk_tokens", "devices", "runs",
"steps", ...}``, where ``steps`` has a list per step: tokens, sequences, cached tokens, whether it prefilled,
seconds. Then one line per request:

| field | content |
|---|---|
| ``arrival_s`` | seconds from the first submit to this one |
| ``tokens``, ``output_tokens`` | lengths of its prompt and of its answer |
| ``queue_s``, ``first_s``, ``latency_s`` | seconds from the submit to the engine, the first and the last token |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from windrow.lab.costs.cost import StepRuns
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.json_values import Count, Seconds, read_as
from windrow.lab.measure import run_file
from windrow.lab.measure.recording import ENOUGH
from windrow.lab.simulate.generation import GenerationPolicy
from windrow.lab.simulate.workload import Workload

#: Steps count as alike if the logarithms of their sizes differ by at most the first number; the second is the share of
#: them that is cut off at each end.
STEP_SIZES, CUT = 0.2, 0.05


@dataclass(frozen=True, slots=True)
class RecordedAnswer(run_file.TimedRequest):
    """One request of a run; the module describes the fields."""

    tokens: Count
    output_tokens: Count
    queue_s: Seconds
    first_s: Seconds
    latency_s: Seconds


@dataclass(frozen=True, slots=True)
class GenerationRecording:
    """A run: its settings, its requests in order of arrival, and its steps in order."""

    policy: GenerationPolicy
    devices: int
    #: How the device ran steps. Measured steps have captured sizes.
    runs: StepRuns
    about: Mapping[str, Any]
    requests: Sequence[RecordedAnswer]
    steps: Sequence[TimedStep]

    @property
    def workload(self) -> Workload:
        """The arrivals and answer lengths of the run as a workload for the simulator."""
        rows = self.requests
        return Workload(
            [one.arrival_s for one in rows], [one.tokens for one in rows], [one.output_tokens for one in rows]
        )

    def typical_steps(self) -> list[TimedStep]:
        """Return one step per group of similar sizes (within a fifth), with the mean time of the middle nine tenths.

        Grouping gives rare sizes as much weight as common ones, and trimming removes pauses of the machine.
        """
        alike: dict[tuple[bool, int, int, int], list[TimedStep]] = {}
        for one in self.steps:
            sizes = (one.tokens, one.sequences, one.cached_tokens + 1)
            first, second, third = (round(math.log(size) / STEP_SIZES) for size in sizes)
            alike.setdefault((one.reads, first, second, third), []).append(one)
        return [_typical(steps) for steps in alike.values()]

    def handover_s(self) -> float:
        """Return the median time from a submit to the engine when the engine had room; 0 if there are too few."""
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
    """Write the run to a file; raises `OSError`."""
    policy = asdict(recording.policy)
    head = {
        "windrow_run": run_file.VERSION, "task": run_file.GENERATE, **recording.about, "devices": recording.devices,
        "runs": asdict(recording.runs), "strategy": policy.pop("name"), **policy,
        "steps": [astuple(one) for one in recording.steps],
    }  # fmt: skip
    run_file.write_lines(path, head, recording.requests)


def read_generation(path: Path) -> GenerationRecording:
    """Read a run from a file; raises `ValueError` with the file, the line and the problem."""
    lines = run_file.read_lines(path)
    try:
        head = dict(run_file.read_head(lines))
        if head.get("task") != run_file.GENERATE:
            raise ValueError("a run of a model that answers in one batch; takes the run of a model that generates")
        steps = [_step(row) for row in head.pop("steps", ())]
        policy = {**head, "name": head.get("strategy")}
        values = {**head, "policy": policy, "about": head, "requests": [], "steps": steps}
        found = read_as(GenerationRecording, values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, line 1: {error}") from None
    requests = run_file.read_requests(path, lines, RecordedAnswer)
    for line, request in enumerate(requests, 2):
        if request.first_s > request.latency_s:
            raise ValueError(
                f"{path}, line {line}: its first token came after {request.first_s} s, its last after "
                f"{request.latency_s} s"
            )
    return replace(found, requests=requests)


def _step(row: Sequence[Any]) -> TimedStep:
    tokens, sequences, cached_tokens, reads, seconds = row
    step = TimedStep(int(tokens), int(sequences), int(cached_tokens), bool(reads), float(seconds))
    if not 0 < step.seconds < math.inf or min(step.tokens, step.sequences) < 1 or step.cached_tokens < 0:
        raise ValueError(f"step {list(row)}: takes tokens and sequences of 1 or more, and more than 0 s")
    return step
