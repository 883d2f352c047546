"""The choices of settings that a planner simulates, the outcome of each, and bounds on them, per kind of model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from windrow.lab.costs.cost import CostModel, DecodeCost
from windrow.lab.measure.figures import latencies_s
from windrow.lab.simulate.device import Policy, Step
from windrow.lab.simulate.generation import GenerationPolicy, simulate_generation
from windrow.lab.simulate.outcome import Fleet, GiveUp, Outcome
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.planning import BatchLimits

#: Settings to try with each strategy; None is the learned window.
BATCH_SIZES = (8, 16, 32, 64, 128)
MAX_WAITS_S: tuple[float | None, ...] = (0.0, 0.002, 0.005, 0.020, None)
#: The same for text generation: concurrent sequences, tokens per step, and prefill chunk.
SEQUENCES = (8, 32, 128, 512)
STEP_TOKENS = (2048, 16384)
CHUNKS = (256, 512, 1024, 2048)
#: Devices do not keep up if the wait grows by more than this share of the time in which requests arrive.
GROWTH = 0.02
#: Fewest requests from which growth is judged.
ENOUGH = 100
Seconds = NDArray[np.float64]
#: Kind of SLO -> its name in tables.
GOALS = {"latency": "", "first_token": "TTFT ", "gap": "ITL "}


@dataclass(frozen=True, slots=True)
class Slo:
    """A limit: ``share`` of requests take at most ``seconds`` in total, to the first token, or between tokens."""

    seconds: float
    share: float = 0.99
    #: One of `GOALS`.
    of: str = "latency"

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf and 0 < self.share < 1):
            raise ValueError("an SLO takes a time above 0 and a share between 0 and 1")
        if self.of not in GOALS:
            raise ValueError(f"an SLO of {self.of!r}: takes {', '.join(GOALS)}")

    @property
    def name(self) -> str:
        """The name in tables, such as ``p99`` or ``TTFT p99``."""
        return f"{GOALS[self.of]}p{self.share * 100:g}"


Choice = TypeVar("Choice", contravariant=True)


class Trials(Protocol[Choice]):
    """What a planner needs from one kind of model."""

    def run(self, workload: Workload, policy: Choice, devices: int, give_up: GiveUp | None) -> Outcome:
        """Simulate it."""
        ...

    def alone_s(self, workload: Workload, policy: Choice, of: str) -> Seconds:
        """Return the SLO's figure for each request if it ran alone on an idle device, in seconds."""
        ...

    def least_work_s(self, workload: Workload, policy: Choice) -> float:
        """Return a lower bound on the device seconds of a run with these settings."""
        ...


@dataclass(frozen=True, slots=True)
class PassTrials:
    """Models that answer in one batch."""

    cost: CostModel

    def run(self, workload: Workload, policy: Policy, devices: int, give_up: GiveUp | None) -> Outcome:
        """See `Trials`."""
        return simulate(workload, policy, self.cost, Fleet(devices), give_up)

    def alone_s(self, workload: Workload, policy: Policy, of: str) -> Seconds:
        """See `Trials`."""
        if of != "latency":
            raise ValueError(f"an SLO of {of} takes a model that generates")
        line = self.cost.of_strategy(policy.strategy)
        return np.array([line.seconds(tokens, 1) for tokens in workload.tokens]) + self.cost.handover_s

    def least_work_s(self, workload: Workload, policy: Policy) -> float:
        """See `Trials`; assumes full batches without padding."""
        line, count = self.cost.of_strategy(policy.strategy), len(workload)
        passes_s = count / policy.limits.max_batch_size * line.pass_s
        return (passes_s + sum(workload.tokens) * line.token_s + count * line.sequence_s) / line.lanes


@dataclass(frozen=True, slots=True)
class StepTrials:
    """Models that generate."""

    cost: DecodeCost
    handover_s: float

    def run(self, workload: Workload, policy: GenerationPolicy, devices: int, give_up: GiveUp | None) -> Outcome:
        """See `Trials`."""
        return simulate_generation(workload, policy, self.cost, Fleet(devices), give_up, self.handover_s)

    def alone_s(self, workload: Workload, policy: GenerationPolicy, of: str) -> Seconds:
        """See `Trials`."""
        cost, prompts = self.cost, np.asarray(workload.tokens, float)
        gaps = np.asarray(workload.output_tokens, float) - 1
        # Over its prompt and half of its answer.
        gap_s = cost.step_s + cost.token_s + cost.sequence_s + cost.cache_token_s * (prompts + gaps / 2)
        if of == "gap":
            return np.repeat(gap_s, gaps.astype(int))
        steps = np.ceil(prompts / policy.max_batch_tokens)
        reading_s = steps * (cost.step_s + cost.read_s + cost.sequence_s) + prompts * cost.token_s
        first_s = self.handover_s + reading_s + cost.cache_token_s * prompts
        return first_s if of == "first_token" else first_s + gaps * gap_s

    def least_work_s(self, workload: Workload, policy: GenerationPolicy) -> float:
        """See `Trials`; assumes full steps that read nothing from the KV cache."""
        cost, gaps = self.cost, sum(workload.output_tokens) - len(workload)
        size = 1 if policy.name == "none" else policy.max_batch_size
        steps_s = gaps * (cost.step_s / size + cost.token_s + cost.sequence_s)
        return steps_s + sum(workload.tokens) * cost.token_s + len(workload) * cost.sequence_s


def policies(strategies: Iterable[str], max_batch_tokens: int, longest_tokens: int) -> list[Policy]:
    """Return all combinations to try; ``none`` has no window, because it never batches."""
    return [
        Policy(strategy, BatchLimits(size, max_batch_tokens, static_length=longest_tokens), wait_s)
        for strategy in strategies
        for size in (BATCH_SIZES if strategy != "none" else BATCH_SIZES[:1])
        for wait_s in (MAX_WAITS_S if strategy != "none" else MAX_WAITS_S[:1])
    ]


def generation_policies(names: Iterable[str], cache_tokens: int) -> list[GenerationPolicy]:
    """Return all combinations to try for text generation; only ``chunked`` has a prefill chunk."""
    made = []
    for name in names:
        sizes = SEQUENCES if name != "none" else (1,)
        steps = [(max(STEP_TOKENS), chunk) for chunk in CHUNKS]
        if name != "chunked":
            steps = [(tokens, tokens) for tokens in (STEP_TOKENS if name == "continuous" else STEP_TOKENS[-1:])]
        made += [
            GenerationPolicy(name, size, tokens, cache_tokens, 16, chunk) for size in sizes for tokens, chunk in steps
        ]
    return made


def figures_s(outcome: Outcome, of: str) -> Seconds:
    """Return the SLO's figure for each finished request, or for each gap between tokens."""
    if of == "latency":
        return latencies_s(outcome)
    if of == "first_token":
        first_s = np.asarray(outcome.first_s) - np.asarray(outcome.workload.arrival_s)
        ended: Seconds = first_s[np.isfinite(first_s)]
        return ended
    steps = [one for one in outcome.batches if isinstance(one, Step) and one.decoding]
    return np.repeat([one.end_s - one.start_s for one in steps], [one.decoding for one in steps])


def keeps_up(outcome: Outcome) -> bool:
    """Whether the last requests waited about as long as the first, so that the queue does not grow.

    Without this check, a run shorter than its SLO would pass with devices of any speed.
    """
    arrival_s = np.asarray(outcome.workload.arrival_s)
    waited_s = np.asarray(outcome.start_s) - arrival_s
    if len(waited_s) < ENOUGH:
        return True
    tenth = len(waited_s) // 10
    return bool(waited_s[-tenth:].mean() - waited_s[:tenth].mean() <= GROWTH * (arrival_s[-1] - arrival_s[0]))
