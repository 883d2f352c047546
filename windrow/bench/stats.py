"""The arithmetic of the reports, without clocks or processes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a contender was."""

    texts_per_s: float
    tokens_per_s: float


def median(values: Sequence[float]) -> float:
    """The middle value. Raises `ValueError` for none at all."""
    if not values:
        raise ValueError("there is no median of nothing")
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lies, interpolated between neighbours.

    Method 7 of Hyndman and Fan (1996), which is numpy's default. Raises `ValueError` for none at all.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("takes values, and a share from 0 to 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of ``ours / theirs``: what the machine did to both in a round cancels out."""
    return median([own / other for own, other in zip(ours, theirs, strict=True)])


def rates_within(ended: Sequence[tuple[float, int]], begin_s: float, end_s: float) -> Rates:
    """Rates in a window, from ``(when, tokens)`` of each text that ended.

    Texts end in bursts, one a batch, so the window is moved to the last end before each of its edges: counted are
    whole bursts in the time that they took. Raises `ValueError` where nothing ended within.
    """
    ordered = sorted(ended)
    inside = [(at_s, tokens) for at_s, tokens in ordered if begin_s < at_s <= end_s]
    if not inside:
        raise ValueError("nothing ended within the window; measure for longer")
    start_s = max((at_s for at_s, _ in ordered if at_s <= begin_s), default=begin_s)
    took_s = inside[-1][0] - start_s
    return Rates(len(inside) / took_s, sum(tokens for _, tokens in inside) / took_s)
