"""What to do with a request whose worker is gone."""

from __future__ import annotations

from dataclasses import dataclass

#: A request that was in so many batches whose process died is a suspect: it runs alone, so that it can take no other
#: request with it any more.
SUSPECT_AFTER = 2


@dataclass(frozen=True, slots=True)
class Retry:
    """Back to the front of the queue."""

    #: The attempt that comes next, counted from 1.
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To the dead-letter list, with a failed result."""

    reason: str


def decide_retry(attempt: int, max_attempts: int) -> Retry | GiveUp:
    """Decide after ``attempt`` (counted from 1) ended without an answer."""
    if attempt >= max_attempts:
        return GiveUp(f"the worker died or lost its lease on each of {attempt} attempts")
    return Retry(attempt + 1)
