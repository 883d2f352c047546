"""Counts the tokens in the KV cache of a simulated device from the plans of its steps."""

from __future__ import annotations

from collections.abc import Iterable

from windrow.scheduler.stepping.sequences import GeneratingSequence, StepPlan


class CachedTokens:
    """Follows the plans of one `StepScheduler`, in order. Takes time only for sequences that start, stop or prefill."""

    def __init__(self) -> None:
        #: Tokens in the cache after the last plan.
        self.tokens = 0
        #: Sequence -> prefilled tokens, and the step that completed the prefill (None before that).
        self._prefilled: dict[GeneratingSequence, tuple[int, int | None]] = {}

    def add(self, plan: StepPlan) -> int:
        """Return the tokens in the cache during this step, including those of sequences that end with it."""
        for sequence in plan.preempted:
            self._forget(sequence, plan.number - 1)
        for sequence in plan.admitted:  # shared prefixes are counted for each sequence
            self.tokens += sequence.cached_tokens
        self.tokens += plan.prompt_tokens + plan.rows
        for chunk in plan.chunks:
            self._prefilled[chunk.sequence] = chunk.start + chunk.tokens, plan.number if chunk.is_last else None
        return self.tokens

    def remove(self, sequences: Iterable[GeneratingSequence], step: int) -> None:
        """Remove sequences whose last token was generated in ``step``."""
        for sequence in sequences:
            self._forget(sequence, step)

    def clear(self) -> None:
        """Remove all sequences."""
        self.tokens = 0
        self._prefilled.clear()

    def _forget(self, sequence: GeneratingSequence, step: int) -> None:
        """Remove the prefilled tokens of a sequence, and one token for each step since."""
        if sequence in self._prefilled:
            prefilled_tokens, first_step = self._prefilled.pop(sequence)
            self.tokens -= prefilled_tokens + (0 if first_step is None else step - first_step)
