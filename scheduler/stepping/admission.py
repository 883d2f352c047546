"""Admission: whether the device has a slot and enough cache pages for a sequence, and their allocation."""

from __future__ import annotations

from windrow.scheduler.stepping.pages import PagePool
from windrow.scheduler.stepping.sequences import GeneratingSequence, StepLimits


class Admission:
    """Slots and cache pages of one device.

    With ``reserves_output``, an admitted sequence receives the pages of all its tokens at once and never needs more.
    Otherwise it receives those of its context, and one page per decoding sequence stays free, so that newcomers are not
    preempted again soon.
    """

    def __init__(self, limits: StepLimits, slots: int, *, reserves_output: bool) -> None:
        self.pool = PagePool(limits.pages)
        self._limits = limits
        self._reserves_output = reserves_output
        self._free_slots = list(range(slots - 1, -1, -1))

    def check_size(self, sequence: GeneratingSequence) -> None:
        """Raise `ValueError` for a sequence without tokens, or one that is larger than the whole cache."""
        if sequence.prompt_tokens < 1 or sequence.max_tokens < 1:
            raise ValueError(
                f"the sequence has {sequence.prompt_tokens} prompt tokens and max_tokens {sequence.max_tokens}; "
                "both must be at least one token"
            )
        # The last token is returned and never written to the cache.
        needed = self._limits.pages_for(sequence.prompt_tokens + sequence.max_tokens - 1)
        if needed > self._limits.pages:
            raise ValueError(f"the sequence may need {needed} pages; the cache has {self._limits.pages}")

    def missing_pages(self, sequence: GeneratingSequence, decoding: int) -> tuple[int, list[int]]:
        """Return how many pages are missing to admit ``sequence`` (0 or less if none), and the pages it would share.

        ``decoding`` is the number of sequences that decode.
        """
        missing = self._needed_pages(sequence) - self.pool.available
        if not self._reserves_output:
            missing += decoding
        if not sequence.page_keys:
            return missing, []
        # The last token of the context is always prefilled, because its output is the next token.
        usable = (sequence.context_tokens - 1) // self._limits.page_tokens
        shared = self.pool.match(sequence.page_keys[:usable])
        return missing - len(shared) + self.pool.count_idle(shared), shared

    def admit(self, sequence: GeneratingSequence, decoding: int) -> bool:
        """Allocate a slot and pages to ``sequence``; return False and change nothing if there are too few."""
        if not self._free_slots:
            return False
        missing, shared = self.missing_pages(sequence, decoding)
        if missing > 0:
            return False
        if shared:
            self.pool.share(shared)
        sequence.pages = shared + self.pool.take(self._needed_pages(sequence) - len(shared))
        sequence.published = len(shared)
        sequence.cached_tokens = sequence.prefilled_tokens = len(shared) * self._limits.page_tokens
        sequence.slot = self._free_slots.pop()
        return True

    def publish_prefix(self, sequence: GeneratingSequence) -> None:
        """Let other sequences share the pages that are full of the prompt of ``sequence``."""
        full = min(len(sequence.page_keys), len(sequence.pages), sequence.prefilled_tokens // self._limits.page_tokens)
        while sequence.published < full:
            index = sequence.published
            if not self.pool.publish(sequence.pages[index], sequence.page_keys[index]):
                return  # another sequence prefilled the same prefix at the same time and has published its pages
            sequence.published += 1

    def free(self, sequence: GeneratingSequence) -> None:
        """Take the slot and the pages away from an ended or preempted sequence."""
        assert sequence.slot is not None
        self._free_slots.append(sequence.slot)
        self.pool.release(sequence.pages, sequence.published)
        sequence.slot, sequence.pages, sequence.published = None, [], 0

    def _needed_pages(self, sequence: GeneratingSequence) -> int:
        output_tokens = sequence.max_tokens - 1 if self._reserves_output else 0
        return self._limits.pages_for(sequence.context_tokens + output_tokens)
