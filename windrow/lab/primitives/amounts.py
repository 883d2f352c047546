"""Which counts, times and sizes the primitives take."""

from __future__ import annotations

import math
from numbers import Real

#: Beyond it not every whole number is a float.
MOST_COUNT = 2**53
#: Thirty million years. Products and sums of what is below both stay finite.
MOST_S = 1e15


def count(name: str, value: float, least: int) -> int:
    """``value`` as a whole number. Raises `ValueError` with ``name`` for what is none from ``least`` to 2**53."""
    if not (_is_number(value) and least <= value <= MOST_COUNT and value % 1 == 0):
        raise ValueError(f"{name} is {value!r}; it takes a whole number from {least} to 2**53")
    return int(value)


def seconds(name: str, value: float) -> float:
    """``value`` as a time. Raises `ValueError` with ``name`` for what is none from 0 to `MOST_S`."""
    if not (_is_number(value) and 0 <= value <= MOST_S):
        raise ValueError(f"{name} is {value!r}; it takes seconds from 0 to {MOST_S:g}")
    return float(value)


def size(name: str, value: float, *, may_be_0: bool = False) -> float:
    """``value`` as an amount of memory. Raises `ValueError` with ``name`` for what is negative or not finite."""
    if not (_is_number(value) and 0 <= value < math.inf and (may_be_0 or value > 0)):
        raise ValueError(f"{name} is {value!r}; it takes a finite number, {'0 or more' if may_be_0 else 'more than 0'}")
    return value if isinstance(value, int) else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real)
