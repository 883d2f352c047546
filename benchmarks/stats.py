"""Statistics of the reports, without clocks or processes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Throughput of one contender."""

    texts_per_s: float
    tokens_per_s: float


def median(values: Sequence[float]) -> float:
    """Return the median; raises `ValueError` for an empty sequence."""
    if not values:
        raise ValueError("the median needs at least one value")
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the quantile ``share`` (0 to 1) of ``values``, interpolated linearly.

    This is method 7 of Hyndman and Fan (1996), numpy's default. Raises `ValueError` for an empty sequence.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError(f"percentile needs at least one value and a share from 0 to 1, not {len(values)} and {share}")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of ``ours / theirs``; what slows both in a round cancels out."""
    return median([own / other for own, other in zip(ours, theirs, strict=True)])


def rates_within(ended: Sequence[tuple[float, int]], begin_s: float, end_s: float) -> Rates:
    """Return the rates in a time window, from the ``(time, tokens)`` of each text that finished.

    Texts finish in bursts, one per batch. Each edge of the window therefore moves back to the last finish before it, so
    that whole bursts are counted over the time they took. Raises `ValueError` if nothing finished in the window.
    """
    ordered = sorted(ended)
    inside = [(at_s, tokens) for at_s, tokens in ordered if begin_s < at_s <= end_s]
    if not inside:
        raise ValueError("no text finished within the window; measure for longer")
    start_s = max((at_s for at_s, _ in ordered if at_s <= begin_s), default=begin_s)
    took_s = inside[-1][0] - start_s
    return Rates(len(inside) / took_s, sum(tokens for _, tokens in inside) / took_s)
