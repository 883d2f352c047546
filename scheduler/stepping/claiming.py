"""How many requests, and of which priorities, a process may claim for a model that generates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

#: Priority name -> `GeneratingSequence.priority`. Larger numbers are preempted first when the cache is full.
PRIORITY_NUMBERS = {"high": 0, "normal": 1, "low": 2}
#: `continuous` claims this fraction of ``max_batch_size`` ahead.
CLAIM_AHEAD = 1 / 8


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """How many requests one process holds at most, by its strategy."""

    #: Maximum number of sequences that run at the same time.
    max_sequences: int
    #: Requests that may wait in this process, so that a freed slot is filled without a round trip to Redis.
    waiting_requests: int
    #: Whether urgent sequences preempt others.
    preempts: bool

    @classmethod
    def of(cls, strategy: str, max_batch_size: int) -> ClaimLimits:
        """Return the limits of a step strategy. ``static`` claims the next batch while one runs."""
        size = 1 if strategy == "none" else max_batch_size
        waiting = size if strategy == "static" else max(1, int(size * CLAIM_AHEAD))
        return cls(size, waiting, strategy == "continuous")

    def room(self, started_sequences: int, unstarted: Iterable[int]) -> int:
        """Return how many requests may be claimed now.

        ``started_sequences`` is the number of sequences of requests that have a token. ``unstarted`` gives the number
        of sequences of each request that has none. A request of which not all sequences can run next counts as one
        waiting request, so that a few large requests do not keep out requests of a higher priority.
        """
        free, waiting = self.max_sequences - started_sequences, self.waiting_requests
        for sequences in unstarted:
            if free > 0:
                free -= sequences
            else:
                waiting -= 1
        return max(0, free) + max(0, waiting)

    def room_by_preemption(self, priority: int, held: Collection[tuple[int, int]]) -> int:
        """Return how many requests of ``priority`` or more urgent ones would run now by preempting others.

        ``held`` has the priority and the number of sequences of each request held. Requests that would have to wait
        despite preemption are left to other workers. Returns 0 if no request of a lower priority is held.
        """
        if not self.preempts:
            return 0
        taken = sum(sequences for number, sequences in held if number <= priority)
        return max(0, self.max_sequences - taken) if any(number > priority for number, _ in held) else 0


def plan_urgent_claim(room_by_preemption: Callable[[int], int]) -> tuple[int, tuple[str, ...]]:
    """Return how many requests a full process may claim, and of which priorities; (0, ()) for none.

    ``room_by_preemption`` is that of the engine, by priority number.
    """
    for least in ("normal", "high"):
        if room := room_by_preemption(PRIORITY_NUMBERS[least]):
            return room, tuple(name for name, number in PRIORITY_NUMBERS.items() if number <= PRIORITY_NUMBERS[least])
    return 0, ()
