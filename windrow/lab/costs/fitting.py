"""Lines through passes, and through steps of generation, that were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from windrow.lab.costs.cost import DecodeCost, PassCost, StepRuns
from windrow.lab.costs.shared_cores import ALONE, Shared, pass_end_s

#: Every step is waited for, and has its own size.
WAITED_FOR = StepRuns()
#: Factors that stand for all by which passes miss a line.
SPREAD = 20
#: Passes that ran alone, below which there is no line through them.
ENOUGH_ALONE = 8
#: Share of its time for which a pass that ran alone may have had others beside it: they were about to be looked at.
BESIDE = 0.1
#: The chores of a request are looked for up to here, in seconds of a lane.
MOST_CHORES_S = 0.1
#: Of the factors of the pieces of a pass.
DRAWS = 8
#: Repetitions of a fit; it stands still after a few.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class TimedPass:
    """One measured forward pass."""

    #: Computed, padding included.
    tokens: int
    #: Those of each sequence, padding included, in their order.
    lengths: tuple[int, ...]
    #: From its start to its end.
    seconds: float
    shared: Shared = ALONE


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
    """The line through ``passes`` and how they spread around it.

    Raises `ValueError` for no passes, and on several lanes for too few that ran alone.
    """
    if lanes == 1:
        rows = [[1.0, one.tokens, len(one.lengths)] for one in passes]
        (pass_s, token_s, sequence_s), factors = fit_line(
            rows, [one.seconds - max(one.shared.busy_s, default=0.0) for one in passes]
        )
        return PassCost(pass_s, token_s, sequence_s, spread=_spread(factors)), _error(factors)
    return _fit_pieces(passes, lanes)


def _fit_pieces(passes: Sequence[TimedPass], lanes: int) -> tuple[PassCost, FitError]:
    """First the line of pieces that ran alone, then the chores of requests: as many as let all passes together take as
    long as they did.
    """
    alone = [one for one in passes if _ran_alone(one)]
    if len(alone) < ENOUGH_ALONE:
        raise ValueError(
            f"of {len(passes)} measured passes {len(alone)} were one text with nothing beside it, too few to tell what "
            f"a core takes; takes {ENOUGH_ALONE}, as a run of fewer requests a second beside this one has them"
        )
    rows = [[1.0, sum(one.lengths)] for one in alone]
    (pass_s, token_s), factors = fit_line(rows, [one.seconds for one in alone])
    line = PassCost(pass_s, token_s, 0.0, lanes, _spread(factors))
    took_s = np.array([one.seconds for one in passes])
    # Where it is not known what came, nothing tells them from the passes.
    low, high = 0.0, MOST_CHORES_S if any(one.shared.came_s for one in passes) else 0.0
    while high - low > 1e-5:
        chore_s = (low + high) / 2
        is_enough = _expected_s(passes, replace(line, chore_s=chore_s)).sum() > took_s.sum()
        low, high = (low, chore_s) if is_enough else (chore_s, high)
    cost = replace(line, chore_s=low)
    return cost, _error(took_s / _expected_s(passes, cost))


def _ran_alone(one: TimedPass) -> bool:
    """Whether it was not cut, and nothing worth mentioning ran beside it."""
    return len(one.lengths) == 1 and max(one.shared.busy_s, default=0.0) < BESIDE * one.seconds


def _expected_s(passes: Sequence[TimedPass], cost: PassCost) -> NDArray[np.float64]:
    """Seconds of each of ``passes`` on average.

    Pieces miss the line each by itself, and a pass waits for the unlucky one; passes are looked at in turn.
    """
    draw = Random(0)
    expected_s = []
    for one in passes:
        pieces_s = cost.cut_s(one.lengths)
        draws = DRAWS if len(pieces_s) > 1 and cost.spread else 1
        total_s = 0.0
        for _ in range(draws):
            work_s = [seconds * draw.choice(cost.spread) for seconds in pieces_s] if draws > 1 else pieces_s
            total_s += max(pass_end_s(work_s, one.shared, cost.lanes, cost.chore_s), *one.shared.busy_s, 0.0)
        expected_s.append(total_s / draws)
    return np.array(expected_s)


def fit_steps(steps: Sequence[TimedStep], runs: StepRuns = WAITED_FOR) -> tuple[DecodeCost, FitError]:
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


def _spread(factors: NDArray[np.float64]) -> tuple[float, ...]:
    spread = np.quantile(factors, (np.arange(SPREAD) + 0.5) / SPREAD)
    return tuple(np.round(spread / spread.mean(), 4).tolist())


def _error(factors: NDArray[np.float64]) -> FitError:
    misses = np.abs(factors - 1.0)
    return FitError(len(factors), float(np.median(misses)), float(np.percentile(misses, 95)))
