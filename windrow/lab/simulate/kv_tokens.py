"""How many tokens the cache of a generating device holds, read off the steps that are planned for it."""

from __future__ import annotations

from collections.abc import Iterable

from windrow.scheduler.stepping.sequences import GeneratingSequence, StepPlan


class CachedTokens:
    """Follows the steps of one `StepScheduler`, in order. Work is done for those that come, leave, or read."""

    def __init__(self) -> None:
        #: With the last step that was followed.
        self.tokens = 0
        #: Of each sequence that has some: how many were read, and since which step it decodes.
        self._read: dict[GeneratingSequence, tuple[int, int | None]] = {}

    def follow(self, plan: StepPlan) -> int:
        """What is there with the tokens of this step; those that it gives a last token to are still in."""
        for sequence in plan.preempted:
            self._forget(sequence, plan.number - 1)
        for sequence in plan.admitted:  # beginnings that it shares with others are counted for each
            self.tokens += sequence.cached_tokens
        self.tokens += plan.prompt_tokens + plan.rows
        for chunk in plan.chunks:
            self._read[chunk.sequence] = chunk.start + chunk.tokens, plan.number if chunk.is_last else None
        return self.tokens

    def left(self, sequences: Iterable[GeneratingSequence], step: int) -> None:
        """These had their last token in ``step``, and are gone."""
        for sequence in sequences:
            self._forget(sequence, step)

    def clear(self) -> None:
        """Everybody is gone."""
        self.tokens = 0
        self._read.clear()

    def _forget(self, sequence: GeneratingSequence, step: int) -> None:
        """What was read of it, and a token a step since then."""
        if sequence in self._read:
            read_tokens, first_step = self._read.pop(sequence)
            self.tokens -= read_tokens + (0 if first_step is None else step - first_step)
