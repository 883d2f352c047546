"""`decide_retry`: whether a request of a lost worker gets another attempt."""

from __future__ import annotations

from dataclasses import dataclass

#: After this many attempts without a result, because the process died or its lease expired, a request is a suspected
#: poison request and runs alone, so that no other request fails with it.
SUSPECT_AFTER = 2


@dataclass(frozen=True, slots=True)
class Retry:
    """Requeue the request at its old place."""

    #: Number of the next attempt, counted from 1.
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Finish the request as failed, and keep it as a dead letter."""

    reason: str


def decide_retry(attempt: int, max_attempts: int) -> Retry | GiveUp:
    """Decide what happens to a request whose ``attempt`` (counted from 1) brought no result."""
    if attempt >= max_attempts:
        return GiveUp(f"the worker died or lost its lease on each of {attempt} attempts")
    return Retry(attempt + 1)
