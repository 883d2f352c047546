"""The queue of sequences that wait for a slot, ordered by rank."""

from __future__ import annotations

from heapq import heappop, heappush

from windrow.scheduler.stepping.sequences import GeneratingSequence, State


class WaitingSequences:
    """A heap by rank. Canceled sequences stay in it until they reach its front."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], GeneratingSequence]] = []
        self._canceled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._canceled

    def push(self, sequence: GeneratingSequence) -> None:
        """Queue a new or preempted sequence."""
        sequence.state = State.WAITING
        heappush(self._heap, (sequence.rank, sequence))

    def cancel(self, sequence: GeneratingSequence) -> None:
        """End a waiting sequence; one that was never pushed is only marked as ended."""
        sequence.state = State.ENDED
        self._canceled += sequence.order > 0

    def first(self, known_step: int) -> GeneratingSequence | None:
        """Return the sequence to admit next; None if there is none, or if the host does not know all its tokens yet.

        A preempted sequence prefills the tokens generated before, which reach the host with its ``last_step``.
        """
        heap = self._heap
        while heap and heap[0][1].state is State.ENDED:
            heappop(heap)
            self._canceled -= 1
        return heap[0][1] if heap and heap[0][1].last_step <= known_step else None

    def pop_first(self) -> None:
        """Remove the sequence that `first` returned."""
        heappop(self._heap)
