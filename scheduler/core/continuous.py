"""Step by step: which sequences decode, which prompts are read, who comes in and who has to make room.

A step gives every running sequence one token and reads a piece of the prompts of those that come in. The engine runs
the steps on a device and the laboratory on a virtual clock; both drive this very code. Whoever drives it may be a step
or two ahead of what it knows: an end by length is known when the step is planned, one by content is told by `end`.

Nothing here is proportional to the running sequences, since a pure decode step takes a device less than a millisecond:
work is done for those that come, leave, or need a page.
"""

from __future__ import annotations

from collections import deque

from scheduler.core.pages import PagePool
from scheduler.core.steps import Chunk, GeneratingSequence, State, StepLimits, StepPlan

#: What ``strategy`` may be for models that generate.
STEP_STRATEGIES = ("none", "static", "continuous")
#: After so many pre-emptions a sequence is as important as any other, so that only its age counts.
PATIENCE = 2


class StepScheduler:
    """Plans the steps of one device. Not safe for several threads.

    ``none`` takes one sequence at a time; ``static`` takes a batch when the one before is over, and reserves all that
    it may need; ``continuous`` takes whoever fits between any two steps, and makes room when the cache is full.
    """

    def __init__(self, strategy: str, limits: StepLimits) -> None:
        """Raises `ValueError` for an unknown strategy."""
        if strategy not in STEP_STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; there are {', '.join(STEP_STRATEGIES)}")
        self.strategy = strategy
        self.limits = limits
        #: The last step that was planned.
        self.step = 0
        self._size = 1 if strategy == "none" else limits.max_batch_size
        self._by_batch = strategy != "continuous"
        self._pool = PagePool(limits.pages)
        self._slots = list(range(self._size - 1, -1, -1))
        self._waiting: deque[GeneratingSequence] = deque()
        #: Those that made room, the oldest first; they come before all that wait.
        self._preempted: list[GeneratingSequence] = []
        self._reading: dict[GeneratingSequence, None] = {}
        self._decoding: dict[GeneratingSequence, None] = {}
        #: The last step read the last of their prompt.
        self._joining: list[GeneratingSequence] = []
        self._left: list[GeneratingSequence] = []
        #: The last step read some of their prompt, and before the next one nobody shares that: the pass may fail.
        self._just_read: list[GeneratingSequence] = []
        #: They had their last token in the last step.
        self._closing: list[GeneratingSequence] = []
        #: Ended sequences that keep their slots until their batch is over, and those of batches that are.
        self._over: list[GeneratingSequence] = []
        self._released: list[GeneratingSequence] = []
        #: Step -> sequences that get their last token there, unless they ended or made room before.
        self._last_in: dict[int, list[GeneratingSequence]] = {}
        #: Who needs a page at steps that leave this remainder, divided by ``page_tokens``.
        self._grows_in: list[dict[GeneratingSequence, None]] = [{} for _ in range(limits.page_tokens)]
        self._orders = 0
        self._canceled_waiting = 0
        self._known_step = 0

    @property
    def waiting(self) -> int:
        """Sequences that have no slot."""
        return len(self._waiting) - self._canceled_waiting + len(self._preempted)

    @property
    def running(self) -> int:
        """Sequences that read or decode."""
        return len(self._reading) + len(self._decoding) + len(self._joining)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits or runs, and nothing is left to tell."""
        return not (self.waiting or self.running or self._left or self._closing or self._released)

    @property
    def pages_taken(self) -> int:
        """Pages that somebody has."""
        return self.limits.pages - self._pool.available

    def add(self, sequence: GeneratingSequence) -> None:
        """Queue a sequence. Raises `ValueError` where it cannot ever fit the cache, or asks for nothing."""
        if sequence.prompt_tokens < 1 or sequence.max_tokens < 1:
            raise ValueError("a sequence has at least one token to read and one to give")
        # The last token is given and never read again.
        needed = self.limits.pages_for(sequence.prompt_tokens + sequence.max_tokens - 1)
        if needed > self.limits.pages:
            raise ValueError(f"it may need {needed} pages; the cache has {self.limits.pages}")
        self._orders += 1
        sequence.order = self._orders
        sequence.state = State.WAITING
        sequence.context_tokens = sequence.prompt_tokens
        self._waiting.append(sequence)

    def end(self, sequence: GeneratingSequence) -> None:
        """It ended by its content, was canceled or failed: it takes part in no later step.

        What the last step read of it is not shared. Does nothing more where it has ended.
        """
        if sequence in self._just_read:
            self._just_read.remove(sequence)
        if sequence.state is State.ENDED:
            return
        if sequence.state is State.WAITING:
            sequence.state = State.ENDED
            if sequence in self._preempted:
                self._preempted.remove(sequence)
            elif sequence.order:  # it was added; taken out when its turn comes
                self._canceled_waiting += 1
            return
        if self._take_out(sequence):
            self._left.append(sequence)
        self._close(sequence)

    def learned(self, step: int) -> None:
        """The tokens of all steps up to ``step`` have been read, and their ends told."""
        self._known_step = max(self._known_step, step)

    def plan_step(self) -> StepPlan | None:
        """Plan the next step; None where there is nothing to do and nothing to tell."""
        for sequence in self._just_read:
            self._publish(sequence)
        for sequence in self._closing:
            self._close(sequence)
        self._just_read, self._closing = [], []
        if self.is_idle:
            return None
        plan = StepPlan(self.step + 1, self._left, [], [], [], [], [], [], self._released)
        self._left, self._released = [], []
        self._join(plan)
        if not self._by_batch:
            self._grow(plan)
        plan.decoding = len(self._decoding)
        plan.rows = plan.decoding + len(self._over)
        self._read(plan)
        if not plan.runs:
            # Whoever is left waits for tokens that are still on their way to the host.
            return plan if plan.left or plan.released else None
        self.step = plan.number
        for sequence in self._last_in.pop(plan.number, ()):
            if sequence.state is State.DECODING and sequence.last_step == plan.number:
                plan.ended.append(sequence)
                if self._take_out(sequence):
                    self._left.append(sequence)
                sequence.state = State.ENDED
        # What they have is theirs until this step is over.
        self._closing = plan.ended
        return plan

    def _join(self, plan: StepPlan) -> None:
        """Whoever was given its first token in the step before decodes from now on."""
        for sequence in self._joining:
            self._decoding[sequence] = None
            self._grows_in[self._turn(sequence)][sequence] = None
        plan.joined, self._joining = self._joining, []

    def _grow(self, plan: StepPlan) -> None:
        """A page for everybody whose token of this step begins one; where there is none, somebody makes room."""
        growing = self._grows_in[plan.number % self.limits.page_tokens]
        while len(growing) > self._pool.available:
            self._preempt(self._victim(), plan)
        for sequence, page in zip(growing, self._pool.take(len(growing)), strict=True):
            sequence.pages.append(page)
        plan.grown += growing

    def _victim(self) -> GeneratingSequence:
        """The least important, and of those the latest."""
        return max(
            (*self._reading, *self._decoding),
            key=lambda one: (one.priority if one.preemptions < PATIENCE else 0, one.order),
        )

    def _preempt(self, sequence: GeneratingSequence, plan: StepPlan) -> None:
        """Take its slot and pages away; what it was given is read again when it comes back."""
        given = sequence.given(self.step)
        was_decoding = self._take_out(sequence)
        self._free(sequence)
        if sequence in plan.joined:
            plan.joined.remove(sequence)
        elif was_decoding:
            plan.left.append(sequence)
        sequence.state = State.WAITING
        sequence.preemptions += 1
        sequence.given_before = given
        sequence.context_tokens = sequence.prompt_tokens + given
        # Its last tokens may not have reached the host yet.
        sequence.first_step, sequence.last_step = None, self.step
        self._preempted.append(sequence)
        self._preempted.sort(key=lambda one: one.order)
        plan.preempted.append(sequence)

    def _read(self, plan: StepPlan) -> None:
        """Give what is left of the budget to prompts: those that are being read first, then newcomers in order."""
        limits = self.limits
        budget = limits.max_batch_tokens - plan.decoding
        if plan.decoding and limits.prefill_chunk_tokens is not None:
            budget = min(budget, limits.prefill_chunk_tokens)
        for sequence in list(self._reading):
            if budget < 1:
                return
            budget -= self._read_from(sequence, budget, plan)
        if self._by_batch and (self.running or self._over):
            return
        # Nobody overtakes: the first that does not fit holds up the others, and so comes in in the end.
        while (
            (budget > 0 or self._by_batch) and (first := self._next_waiting()) is not None and self._admit(first, plan)
        ):
            # A batch closes with its first step; what the budget leaves of its prompts is read in the next ones.
            if budget > 0:
                budget -= self._read_from(first, budget, plan)

    def _next_waiting(self) -> GeneratingSequence | None:
        if self._preempted:
            first = self._preempted[0]
            return first if self._known_step >= first.last_step else None
        while self._waiting and self._waiting[0].state is State.ENDED:
            self._waiting.popleft()
            self._canceled_waiting -= 1
        return self._waiting[0] if self._waiting else None

    def _admit(self, sequence: GeneratingSequence, plan: StepPlan) -> bool:
        """Give it a slot and the pages of its context; False where there are none."""
        if not self._slots:
            return False
        limits, pool = self.limits, self._pool
        wanted = sequence.context_tokens
        if self._by_batch:
            wanted += sequence.max_tokens - 1
        needed = limits.pages_for(wanted)
        # The last token of the context is always read: what it answers is the next token.
        usable = (sequence.context_tokens - 1) // limits.page_tokens
        found = pool.match(sequence.page_keys[:usable]) if sequence.page_keys else []
        # A page for each that decodes is kept back, or newcomers would soon have to make room again.
        spare = 0 if self._by_batch else len(self._decoding)
        if needed - len(found) > pool.available - pool.count_idle(found) - spare:
            return False
        (self._preempted if self._preempted else self._waiting).remove(sequence)
        pool.share(found)
        sequence.pages = found + pool.take(needed - len(found))
        sequence.published = len(found)
        sequence.cached_tokens = sequence.read_tokens = len(found) * limits.page_tokens
        sequence.slot = self._slots.pop()
        sequence.state = State.READING
        self._reading[sequence] = None
        plan.admitted.append(sequence)
        return True

    def _read_from(self, sequence: GeneratingSequence, budget: int, plan: StepPlan) -> int:
        """Plan the next piece of a prompt; how many tokens it has."""
        start = sequence.read_tokens
        tokens = min(budget, sequence.context_tokens - start)
        sequence.read_tokens = start + tokens
        is_last = sequence.read_tokens == sequence.context_tokens
        plan.chunks.append(Chunk(sequence, start, tokens, is_last))
        plan.prompt_tokens += tokens
        if sequence.page_keys:
            self._just_read.append(sequence)
        if is_last:
            del self._reading[sequence]
            sequence.state = State.DECODING
            sequence.first_step = plan.number
            sequence.last_step = plan.number + sequence.max_tokens - sequence.given_before - 1
            self._last_in.setdefault(sequence.last_step, []).append(sequence)
            self._joining.append(sequence)
        return tokens

    def _publish(self, sequence: GeneratingSequence) -> None:
        """Let others share the pages that are full of its prompt, if it still has them."""
        full = min(len(sequence.page_keys), len(sequence.pages), sequence.read_tokens // self.limits.page_tokens)
        while sequence.published < full:
            at = sequence.published
            if not self._pool.publish(sequence.pages[at], sequence.page_keys[at]):
                return  # another one reads the same at the same time; its pages serve
            sequence.published += 1

    def _take_out(self, sequence: GeneratingSequence) -> bool:
        """It takes part in no later step; whether it was decoding."""
        if sequence in self._decoding:
            del self._decoding[sequence], self._grows_in[self._turn(sequence)][sequence]
            return True
        if sequence in self._reading:
            del self._reading[sequence]
        else:
            self._joining.remove(sequence)
        return False

    def _close(self, sequence: GeneratingSequence) -> None:
        """What an ended one had is free at once, or in a batch when all of it has ended."""
        sequence.state = State.ENDED
        if not self._by_batch:
            self._free(sequence)
            return
        self._over.append(sequence)
        if not self.running:
            for one in self._over:
                self._free(one)
            self._released += self._over
            self._over = []

    def _free(self, sequence: GeneratingSequence) -> None:
        assert sequence.slot is not None
        self._slots.append(sequence.slot)
        self._pool.release(sequence.pages, sequence.published)
        sequence.slot, sequence.pages, sequence.published = None, [], 0

    def _turn(self, sequence: GeneratingSequence) -> int:
        """At which step of every ``page_tokens`` its token begins a page: its first one, given in ``first_step``, goes
        to place ``context_tokens`` in the step after.
        """
        assert sequence.first_step is not None
        return (sequence.first_step + 1 - sequence.context_tokens) % self.limits.page_tokens
