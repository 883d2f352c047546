"""What the step scheduler speaks of: sequences, and what one step does with them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class State(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    READING = "reading"
    DECODING = "decoding"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What the device holds and what one step may do."""

    #: Sequences that have a slot at once.
    max_batch_size: int
    #: Tokens of one step: one for each sequence that decodes, the rest for prompts.
    max_batch_tokens: int
    #: Pages of the cache, and tokens of a page.
    pages: int
    page_tokens: int
    #: Prompt tokens of a step in which others decode, who wait for it; None where the budget alone counts.
    prefill_chunk_tokens: int | None = None

    def pages_for(self, tokens: int) -> int:
        """Pages that hold ``tokens``."""
        return -(-tokens // self.page_tokens)


@dataclass(slots=True, eq=False)
class GeneratingSequence:
    """One prompt and the tokens that it gets. Made by the caller; what stands below the line is the scheduler's."""

    #: Whatever the caller knows it by.
    id: Any
    prompt_tokens: int
    max_tokens: int
    #: One key for each full page of the prompt, which stands for all its tokens up to there; () shares nothing.
    page_keys: Sequence[Hashable] = ()
    #: Of two that came about the same time, the one with the smaller number goes first; from 0.
    priority: int = 0

    # ------------------------------------------------------------------------------------------------------------------
    state: State = State.WAITING
    #: Its place among all that ever came.
    order: int = 0
    #: The smallest goes first, and the greatest makes room first: no two have the same, and it never changes.
    rank: tuple[int, int] = (0, 0)
    #: From 0 to ``max_batch_size`` - 1 while it reads or decodes; None else.
    slot: int | None = None
    #: Its pages in the order of its tokens; the first ``published`` of them others may have too.
    pages: list[int] = field(default_factory=list)
    published: int = 0
    #: Tokens to read before the next one can come: the prompt, and after a pre-emption what it had been given.
    context_tokens: int = 0
    #: Of those, read in steps planned so far, and found in the cache.
    read_tokens: int = 0
    cached_tokens: int = 0
    #: Tokens given before it came in the last time, and the step of its first token since.
    given_before: int = 0
    first_step: int | None = None
    last_step: int = 0

    def given(self, step: int) -> int:
        """Tokens that the steps up to ``step`` give it, if it does not end before."""
        if self.first_step is None or step < self.first_step:
            return self.given_before
        return self.given_before + min(step, self.last_step) - self.first_step + 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt that a step reads."""

    sequence: GeneratingSequence
    #: Tokens ``start`` to ``start + tokens`` of its context; all before are in the cache.
    start: int
    tokens: int
    #: With it all is read, and the step gives the next token.
    is_last: bool


@dataclass(slots=True)
class StepPlan:
    """What one step does. Changes since the step before come first; then everybody who is in decodes."""

    #: Counted from 1.
    number: int
    #: They decode no more: ended, canceled or pre-empted.
    left: list[GeneratingSequence]
    #: They decode from this step on.
    joined: list[GeneratingSequence]
    #: They got one more page (the last of ``pages``), which this step's token goes to.
    grown: list[GeneratingSequence]
    #: They got a slot and the pages of their context.
    admitted: list[GeneratingSequence]
    preempted: list[GeneratingSequence]
    chunks: list[Chunk]
    #: This step gives them their last token.
    ended: list[GeneratingSequence]
    #: ``none`` and ``static`` only: the batch of these is over, and they may go.
    released: list[GeneratingSequence]
    #: Sequences that decode, and rows that the device computes for them; more only in a static batch, whose ended
    #: sequences keep their rows.
    decoding: int = 0
    rows: int = 0
    #: Tokens of ``chunks``.
    prompt_tokens: int = 0

    @property
    def runs(self) -> bool:
        """Whether there is anything for the device."""
        return bool(self.decoding or self.chunks)
