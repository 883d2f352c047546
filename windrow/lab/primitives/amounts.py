"""Validation of the counts, times and sizes passed to the primitives."""

from __future__ import annotations

import math
from numbers import Real

#: Above this, a float cannot represent every whole number.
MAX_COUNT = 2**53
#: Thirty million years, in seconds. Sums and products of accepted times and counts stay finite.
MAX_S = 1e15


def count(name: str, value: float, least: int) -> int:
    """Return ``value`` as an integer; raise `ValueError` unless it is a whole number from ``least`` to 2**53."""
    if not (_is_number(value) and least <= value <= MAX_COUNT and value % 1 == 0):
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} to 2**53")
    return int(value)


def seconds(name: str, value: float) -> float:
    """Return ``value`` as a float; raise `ValueError` unless it is from 0 to `MAX_S`."""
    if not (_is_number(value) and 0 <= value <= MAX_S):
        raise ValueError(f"{name} is {value!r}; it must be seconds from 0 to {MAX_S:g}")
    return float(value)


def size(name: str, value: float, *, may_be_0: bool = False) -> float:
    """Return an amount of memory; raise `ValueError` if it is negative, not finite, or 0 without ``may_be_0``."""
    if not (_is_number(value) and 0 <= value < math.inf and (may_be_0 or value > 0)):
        raise ValueError(f"{name} is {value!r}; it must be finite and {'0 or more' if may_be_0 else 'more than 0'}")
    return value if isinstance(value, int) else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real)
