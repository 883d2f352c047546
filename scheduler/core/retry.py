"""`decide_retry`: whether a request of a lost worker gets another attempt."""

from __future__ import annotations

from dataclasses import dataclass

#: After this many attempts whose process died, a request is a suspected poison request and runs alone, so that no other
#: request fails with it.
SUSPECT_AFTER = 2


@dataclass(frozen=True, slots=True)
class Retry:
    """Requeue the request at the front."""

    #: Number of the next attempt, counted from 1.
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Finish the request as failed, and keep it as a dead letter."""

    reason: str


def decide_retry(attempt: int, max_attempts: int) -> Retry | GiveUp:
    """Decide after ``attempt`` (counted from 1) ended without a result."""
    if attempt >= max_attempts:
        return GiveUp(f"the worker died or lost its lease on each of {attempt} attempts")
    return Retry(attempt + 1)
