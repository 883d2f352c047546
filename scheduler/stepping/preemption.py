"""Preemption: which running sequences lose their slots and pages to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from windrow.scheduler.stepping.pages import PagePool
from windrow.scheduler.stepping.sequences import GeneratingSequence


def last_in_rank(running: Iterable[GeneratingSequence]) -> GeneratingSequence:
    """Return the sequence to preempt when the cache is full: the least urgent, and of those the latest."""
    return max(running, key=_rank)


def plan_preemption(
    sequence: GeneratingSequence,
    running: Iterable[GeneratingSequence],
    decoding: Collection[GeneratingSequence],
    pool: PagePool,
    missing_pages: int,
    shared_pages: Collection[int],
) -> list[GeneratingSequence]:
    """Return the sequences to preempt so that ``sequence`` can be admitted, the last in rank first.

    Only sequences of a lower priority that also come later in rank may be preempted. Returns [] if even all of them
    would not free enough pages. ``missing_pages`` and ``shared_pages`` are those of `Admission.missing_pages`.
    """
    lower = [one for one in running if one.priority > sequence.priority and one.rank > sequence.rank]
    if missing_pages > sum(len(one.pages) + 1 for one in lower):
        return []
    lower.sort(key=_rank, reverse=True)
    needed, owners = set(shared_pages), Counter[int]()
    for count, victim in enumerate(lower, 1):
        missing_pages -= victim in decoding  # the page kept free for its next tokens
        owners.update(victim.pages)
        # A shared page becomes available when its last owner has been preempted.
        missing_pages -= sum(pool.owners(page) == owners[page] and page not in needed for page in victim.pages)
        if missing_pages <= 0:
            return lower[:count]
    return []


def _rank(sequence: GeneratingSequence) -> tuple[int, int]:
    return sequence.rank
