"""How long a forward pass takes: a straight line through passes that were measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.planning import Batch, bucket_length

VERSION = 1
#: Factors that stand for all by which passes miss a line.
SPREAD = 20
#: Repetitions of a fit; it stands still after a few.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class PassCost:
    """``pass_s + token_s * tokens + sequence_s * sequences``.

    A pass is cut over ``lanes``, the cores of a CPU (1 on a GPU), and tokens and sequences are those of the busiest of
    them: an equal share, or the longest request where that is more, since a request is not cut.
    """

    pass_s: float
    token_s: float
    sequence_s: float = 0.0
    lanes: int = 1
    #: By what factors measured passes missed the line, as equally likely; empty where all lie on it.
    spread: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        parts = (self.pass_s, self.token_s, self.sequence_s, *self.spread)
        if not all(0 <= part < math.inf for part in parts) or self.lanes < 1:
            raise ValueError("a cost takes seconds of 0 or more, and 1 lane or more")

    def seconds(self, tokens: int, sequences: int, longest_tokens: int) -> float:
        """Of a pass over ``tokens``, padding included."""
        lane_tokens = max(tokens / self.lanes, longest_tokens)
        return self.pass_s + self.token_s * lane_tokens + self.sequence_s * max(1.0, sequences / self.lanes)

    def of_batch(self, batch: Batch, lengths: Sequence[int]) -> float:
        """Seconds of ``batch``, planned from a row of ``lengths``."""
        if self.lanes == 1:
            return self.pass_s + self.token_s * batch.tokens + self.sequence_s * len(batch.indices)
        longest = batch.padded_length or max(lengths[index] for index in batch.indices)
        return self.seconds(batch.tokens, len(batch.indices), longest)


@dataclass(frozen=True, slots=True)
class StepRuns:
    """How a device runs the steps of generation, whatever they cost."""

    #: Steps that are planned while one runs, and that who comes then is not in: 1 where the device is never waited for.
    ahead: int = 0
    #: Sizes that were captured: sequences that decode, and tokens of prompts, are rounded up to them.
    row_rungs: tuple[int, ...] = ()
    token_rungs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.ahead not in (0, 1):
            raise ValueError(f"ahead is {self.ahead!r}; it takes 0 or 1")
        for rungs in (self.row_rungs, self.token_rungs):
            if any(rung < 1 for rung in rungs) or list(rungs) != sorted(rungs):
                raise ValueError(f"sizes that were captured are {list(rungs)}; takes rising numbers of 1 or more")

    def computed(self, rows: int, prompt_tokens: int) -> tuple[int, int]:
        """Rows that decode, and tokens of prompts, which a step computes for so many; none for none."""
        return (
            bucket_length(rows, self.row_rungs) if rows else 0,
            bucket_length(prompt_tokens, self.token_rungs) if prompt_tokens else 0,
        )


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """A step of generation: ``step_s + token_s * tokens + sequence_s * sequences + cache_token_s * cached tokens``.

    ``tokens`` are those computed: the chunks of prompts, and one for each sequence that decodes.
    """

    step_s: float
    token_s: float
    sequence_s: float = 0.0
    cache_token_s: float = 0.0
    #: More, where a step reads prompts: they take a pass of their own.
    read_s: float = 0.0
    runs: StepRuns = StepRuns()

    def __post_init__(self) -> None:
        parts = (self.step_s, self.token_s, self.sequence_s, self.cache_token_s, self.read_s)
        if not all(0 <= part < math.inf for part in parts):
            raise ValueError("a cost takes seconds of 0 or more")

    def seconds(self, tokens: int, sequences: int, cached_tokens: int, *, reads: bool) -> float:
        """Of a step over ``tokens`` of ``sequences`` whose caches hold ``cached_tokens`` in all."""
        took_s = self.step_s + self.token_s * tokens + self.sequence_s * sequences + self.cache_token_s * cached_tokens
        return took_s + self.read_s if reads else took_s


@dataclass(frozen=True, slots=True)
class CostModel:
    """What a device takes for the passes of one model; a file that ``windrow tune`` writes."""

    #: ``none``, ``static``, ``dynamic`` and ``bucket``; None of a model that generates.
    padded: PassCost | None
    packed: PassCost | None
    decode: DecodeCost | None = None
    #: From a submit until a device that waits can start on it: queue, claim, tokenising and threads.
    handover_s: float = 0.0
    #: Which model on which device, and how well the lines fit; for people.
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.handover_s < math.inf:
            raise ValueError("handover_s takes seconds of 0 or more")

    def of_strategy(self, strategy: str) -> PassCost:
        """The line that a strategy's passes lie on. Raises `ValueError` where the model has none."""
        line = self.packed if strategy == "packed" else self.padded
        if line is None:
            raise ValueError(
                f"the costs of {self.about.get('model', 'a model')!r} say nothing of passes, only of generation; "
                "takes those of a model that answers in one pass"
            )
        return line


def read_cost(path: Path) -> CostModel:
    """Read what `write_cost` wrote. Raises `ValueError` naming the file and what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("windrow_cost") != VERSION:
            raise ValueError("another version")
        decode = found["decode"]
        return CostModel(
            _read_pass(found["padded"]),
            _read_pass(found["packed"]),
            None if decode is None else _read_decode(decode),
            float(found["handover_s"]),
            found["about"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a cost file as `windrow tune` writes it ({type(error).__name__}: {error})"
        ) from None


def decode_cost(cost: CostModel, path: Path) -> DecodeCost:
    """What steps of generation take. Raises `ValueError` where ``path``, which it was read from, does not say."""
    if cost.decode is None:
        raise ValueError(f"{path}: it says nothing of generation; its entry decode is empty")
    return cost.decode


def _read_pass(found: dict[str, Any] | None) -> PassCost | None:
    return None if found is None else PassCost(**{**found, "spread": tuple(found["spread"])})


def _read_decode(found: dict[str, Any]) -> DecodeCost:
    runs = read_runs(found["runs"]) if "runs" in found else StepRuns()
    return DecodeCost(**{**found, "runs": runs})


def read_runs(found: dict[str, Any]) -> StepRuns:
    """Read it back from JSON. Raises `ValueError`, `KeyError` or `TypeError`."""
    row_rungs, token_rungs = (tuple(int(rung) for rung in found[name]) for name in ("row_rungs", "token_rungs"))
    return StepRuns(int(found["ahead"]), row_rungs, token_rungs)


def write_cost(path: Path, cost: CostModel) -> None:
    """Write ``cost`` as JSON."""
    path.write_text(json.dumps({"windrow_cost": VERSION, **asdict(cost)}, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class TimedPass:
    """One measured forward pass."""

    tokens: int
    sequences: int
    longest_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TimedStep:
    """One measured step of generation; see `DecodeCost.seconds`."""

    tokens: int
    sequences: int
    cached_tokens: int
    reads: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class FitError:
    """By how much measured passes, or steps, miss the line through them, as shares of what it says."""

    passes: int
    median: float
    p95: float


def fit_passes(passes: Sequence[TimedPass], lanes: int = 1) -> tuple[PassCost, FitError]:
    """The line through ``passes`` and how they spread around it. Raises `ValueError` for no passes."""
    unit = PassCost(0.0, 1.0, 0.0, lanes), PassCost(0.0, 0.0, 1.0, lanes)
    rows = [
        [1.0, *(one.seconds(timed.tokens, timed.sequences, timed.longest_tokens) for one in unit)] for timed in passes
    ]
    (pass_s, token_s, sequence_s), factors = fit_line(rows, [timed.seconds for timed in passes])
    spread = np.quantile(factors, (np.arange(SPREAD) + 0.5) / SPREAD)
    spread = np.round(spread / spread.mean(), 4)
    return PassCost(pass_s, token_s, sequence_s, lanes, tuple(spread.tolist())), _error(factors)


def fit_steps(steps: Sequence[TimedStep], runs: StepRuns = StepRuns()) -> tuple[DecodeCost, FitError]:
    """The same for steps of generation, which were timed in the sizes of ``runs``."""
    rows = [[1.0, one.tokens, one.sequences, one.cached_tokens, float(one.reads)] for one in steps]
    (step_s, token_s, sequence_s, cache_token_s, read_s), factors = fit_line(rows, [one.seconds for one in steps])
    return DecodeCost(step_s, token_s, sequence_s, cache_token_s, read_s, runs), _error(factors)


def fit_line(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[list[float], NDArray[np.float64]]:
    """Weights of the columns of ``rows``, none negative, and each of ``seconds`` as a multiple of the line's.

    Least squares relative to the line itself, found by repetition: relative to what was measured, the slow ones would
    count for less and the line lie too low. Columns whose weight turns out negative are left out, the worst first:
    what costs less than nothing is noise.
    """
    if not rows or not all(0 < took_s < math.inf for took_s in seconds):
        raise ValueError("a line takes measured passes, each of more than 0 seconds")
    matrix, target = np.asarray(rows, dtype=float), np.asarray(seconds, dtype=float)
    kept, line = list(range(matrix.shape[1])), target
    weights = np.zeros(matrix.shape[1])
    for _ in range(ROUNDS):
        scaled, goal = matrix / line[:, None], target / line
        while True:
            weights[:] = 0.0
            weights[kept] = np.linalg.lstsq(scaled[:, kept], goal, rcond=None)[0]
            # By what each contributes: the columns have units of their own.
            worst = min(kept, key=lambda column: weights[column] * scaled[:, column].mean())
            if weights[worst] >= 0:
                break
            kept.remove(worst)
        line = matrix @ weights
    return weights.tolist(), target / line


def _error(factors: NDArray[np.float64]) -> FitError:
    misses = np.abs(factors - 1.0)
    return FitError(len(factors), float(np.median(misses)), float(np.percentile(misses, 95)))
