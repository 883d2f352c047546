"""Weighted fair queueing over (tenant, priority) flows, by virtual finish time.

Start-time and finish-time tags as in self-clocked fair queueing (Golestani, INFOCOM 1994): the virtual time is the tag
of the request served last. The queue's submit script computes the same tag; the contract tests hold the two together.
"""

from __future__ import annotations

from typing import Literal

Priority = Literal["high", "normal", "low"]

#: Share of the device of each priority while all three have requests waiting.
PRIORITY_WEIGHTS: dict[str, float] = {"high": 16.0, "normal": 4.0, "low": 1.0}


def flow_name(tenant: str, priority: str) -> str:
    """Return the flow of a request; the order within a flow is FIFO."""
    return f"{tenant}:{priority}"


def finish_tag(virtual_time: float, last_tag: float | None, cost_tokens: int, weight: float) -> float:
    """Return the virtual finish time of a request, ``max(V, last) + cost / weight``; the smallest is served first."""
    start = virtual_time if last_tag is None else max(virtual_time, last_tag)
    return start + max(1, cost_tokens) / weight


def estimate_cost_tokens(characters: int) -> int:
    """Return the estimated tokens of a text with that many characters: in English, one token has about four."""
    return max(1, (characters + 3) // 4)
