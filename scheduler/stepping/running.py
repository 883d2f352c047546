"""The sequences that have a slot, and the steps in which each of them needs a page or ends."""

from __future__ import annotations

from collections import Counter

from windrow.scheduler.stepping.sequences import GeneratingSequence, State


class RunningSequences:
    """Sequences in prefill and in decode.

    No operation takes time proportional to the number of decoding sequences, because a pure decode step takes the
    device about a millisecond: work is done only for sequences that start, stop, or need a page.
    """

    def __init__(self, page_tokens: int) -> None:
        self.prefilling: dict[GeneratingSequence, None] = {}
        self.decoding: dict[GeneratingSequence, None] = {}
        #: Sequences whose prefill the last step completed; they decode from the next step on.
        self._starting: list[GeneratingSequence] = []
        #: Item i: sequences that need a page at every step whose number modulo ``page_tokens`` is i.
        self._needs_page: list[dict[GeneratingSequence, None]] = [{} for _ in range(page_tokens)]
        #: Step -> sequences that reach ``max_tokens`` in it, unless they end or are preempted before. One that is
        #: preempted and admitted again within one plan is added twice.
        self._last_in: dict[int, dict[GeneratingSequence, None]] = {}
        #: Number of running sequences of each priority; no value is 0.
        self._by_priority: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding) + len(self._starting)

    @property
    def preemptible(self) -> tuple[GeneratingSequence, ...]:
        """Sequences that may be preempted before the next step."""
        return (*self.prefilling, *self.decoding)

    @property
    def least_urgent_priority(self) -> int:
        """Largest priority number among the running sequences; 0 if there are none."""
        return max(self._by_priority, default=0)

    def begin_prefill(self, sequence: GeneratingSequence) -> None:
        """Add an admitted sequence."""
        sequence.state = State.PREFILL
        self._by_priority[sequence.priority] += 1
        self.prefilling[sequence] = None

    def complete_prefill(self, sequence: GeneratingSequence, step: int) -> None:
        """``step`` prefills the rest of the context and generates the first token; decode begins in the step after."""
        del self.prefilling[sequence]
        sequence.state = State.DECODING
        sequence.first_step = step
        sequence.last_step = step + sequence.max_tokens - sequence.generated_before - 1
        self._last_in.setdefault(sequence.last_step, {})[sequence] = None
        self._starting.append(sequence)

    def start_decoding(self) -> list[GeneratingSequence]:
        """Let the sequences whose prefill is complete decode; return them."""
        started, self._starting = self._starting, []
        for sequence in started:
            self.decoding[sequence] = None
            self._page_turn(sequence)[sequence] = None
        return started

    def needing_page(self, step: int) -> dict[GeneratingSequence, None]:
        """Return the sequences whose token of ``step`` is the first of a page."""
        return self._needs_page[step % len(self._needs_page)]

    def reaching_max_tokens(self, step: int) -> list[GeneratingSequence]:
        """Return the sequences that reach ``max_tokens`` in ``step``."""
        last = self._last_in.pop(step, None)
        if last is None:
            return []
        return [one for one in last if one.state is State.DECODING and one.last_step == step]

    def remove(self, sequence: GeneratingSequence) -> bool:
        """Remove an ended or preempted sequence; return whether it was decoding."""
        self._by_priority[sequence.priority] -= 1
        if not self._by_priority[sequence.priority]:
            del self._by_priority[sequence.priority]
        if sequence in self.decoding:
            del self.decoding[sequence], self._page_turn(sequence)[sequence]
            return True
        if sequence in self.prefilling:
            del self.prefilling[sequence]
        else:
            self._starting.remove(sequence)
        return False

    def _page_turn(self, sequence: GeneratingSequence) -> dict[GeneratingSequence, None]:
        """The item of ``_needs_page`` for a sequence.

        The token generated in ``first_step`` is written to position ``context_tokens`` in the step after it.
        """
        assert sequence.first_step is not None
        return self._needs_page[(sequence.first_step + 1 - sequence.context_tokens) % len(self._needs_page)]
