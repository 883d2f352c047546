"""Fits cost models to measured batches and decode steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from windrow.lab.costs.cost import DecodeCost, PassCost, StepRuns
from windrow.lab.costs.shared_cores import ALONE, Shared, pass_end_s

#: A device that waits for each step and captures no sizes.
WAITED_FOR = StepRuns()
#: Number of ratios of measured to predicted time that a cost model keeps.
SPREAD = 20
#: Fewest batches that ran alone from which a line is fitted.
ENOUGH_ALONE = 8
#: Share of its time in which a batch may overlap with others and still count as running alone.
BESIDE = 0.1
#: Largest chore per request that the fit considers, in core seconds.
MOST_CHORES_S = 0.1
#: Seed of the random factors of pieces.
DRAWS = 8
#: Iterations of a fit; it converges after a few.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class TimedPass:
    """One measured forward pass."""

    #: Computed tokens, padding included.
    tokens: int
    #: Tokens of each sequence, padding included, in order.
    lengths: tuple[int, ...]
    #: Duration.
    seconds: float
    shared: Shared = ALONE


@dataclass(frozen=True, slots=True)
class TimedStep:
    """One measured decode step; see `DecodeCost.seconds`."""

    tokens: int
    sequences: int
    cached_tokens: int
    reads: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class FitError:
    """Relative errors of the fit over the measured batches or steps."""

    passes: int
    median: float
    p95: float


def fit_passes(passes: Sequence[TimedPass], lanes: int = 1) -> tuple[PassCost, FitError]:
    """Fit a cost model to measured batches, and return it with its errors.

    Raises `ValueError` for no batches, and on several cores for too few that ran alone.
    """
    if lanes == 1:
        rows = [[1.0, one.tokens, len(one.lengths)] for one in passes]
        (pass_s, token_s, sequence_s), factors = fit_line(
            rows, [one.seconds - max(one.shared.busy_s, default=0.0) for one in passes]
        )
        return PassCost(pass_s, token_s, sequence_s, spread=_spread(factors)), _error(factors)
    return _fit_pieces(passes, lanes)


def _fit_pieces(passes: Sequence[TimedPass], lanes: int) -> tuple[PassCost, FitError]:
    """Fit pieces that ran alone first, then the chores per request, so that the total time of all batches is right."""
    alone = [one for one in passes if _ran_alone(one)]
    if len(alone) < ENOUGH_ALONE:
        raise ValueError(
            f"{len(alone)} of {len(passes)} measured batches were one text that ran alone, too few to fit the cost of "
            f"one core; takes {ENOUGH_ALONE}, for example from an additional run at a lower rate"
        )
    rows = [[1.0, sum(one.lengths)] for one in alone]
    (pass_s, token_s), factors = fit_line(rows, [one.seconds for one in alone])
    line = PassCost(pass_s, token_s, 0.0, lanes, _spread(factors))
    took_s = np.array([one.seconds for one in passes])
    # Without arrival times, chores cannot be distinguished from batches.
    low, high = 0.0, MOST_CHORES_S if any(one.shared.came_s for one in passes) else 0.0
    while high - low > 1e-5:
        chore_s = (low + high) / 2
        is_enough = _expected_s(passes, replace(line, chore_s=chore_s)).sum() > took_s.sum()
        low, high = (low, chore_s) if is_enough else (chore_s, high)
    cost = replace(line, chore_s=low)
    return cost, _error(took_s / _expected_s(passes, cost))


def _ran_alone(one: TimedPass) -> bool:
    """Whether the batch was not cut, and hardly overlapped with others."""
    return len(one.lengths) == 1 and max(one.shared.busy_s, default=0.0) < BESIDE * one.seconds


def _expected_s(passes: Sequence[TimedPass], cost: PassCost) -> NDArray[np.float64]:
    """Return the mean predicted seconds of each batch.

    Each piece deviates from the line independently, and a batch waits for its slowest piece.
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
    """Fit a cost model to decode steps, which were measured at the captured sizes of ``runs``."""
    rows = [[1.0, one.tokens, one.sequences, one.cached_tokens, float(one.reads)] for one in steps]
    (step_s, token_s, sequence_s, cache_token_s, read_s), factors = fit_line(rows, [one.seconds for one in steps])
    return DecodeCost(step_s, token_s, sequence_s, cache_token_s, read_s, runs), _error(factors)


def fit_line(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[list[float], NDArray[np.float64]]:
    """Return nonnegative weights for the columns of ``rows``, and the ratio of each of ``seconds`` to its prediction.

    Least squares of errors relative to the prediction, found by iteration: errors relative to the measurement would
    give
    slow batches too little weight and the line would be too low. Columns with negative weights are dropped, the most
    negative first, because a negative cost is noise.
    """
    if not rows or not all(0 < took_s < math.inf for took_s in seconds):
        raise ValueError("takes at least one measurement, each of more than 0 seconds")
    matrix, target = np.asarray(rows, dtype=float), np.asarray(seconds, dtype=float)
    kept, line = list(range(matrix.shape[1])), target
    weights = np.zeros(matrix.shape[1])
    for _ in range(ROUNDS):
        scaled, goal = matrix / line[:, None], target / line
        while True:
            weights[:] = 0.0
            weights[kept] = np.linalg.lstsq(scaled[:, kept], goal, rcond=None)[0]
            # Compared by contribution, because the columns have different units.
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
