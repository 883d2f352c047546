"""Step by step: which sequences decode, which prompts are read, who comes in and who has to make room.

A step gives every running sequence one token and reads a piece of the prompts of those that come in. The engine runs
the steps on a device and the laboratory on a virtual clock; both drive this very code. Whoever drives it may be a step
or two ahead of what it knows: an end by length is known when the step is planned, one by content is told by `end`.

Nothing here is proportional to the running sequences, since a pure decode step takes a device less than a millisecond:
work is done for those that come, leave, or need a page.
"""

from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush

from windrow.scheduler.stepping.pages import PagePool
from windrow.scheduler.stepping.sequences import Chunk, GeneratingSequence, State, StepLimits, StepPlan

#: What ``strategy`` may be for models that generate.
STEP_STRATEGIES = ("none", "static", "continuous")
#: A sequence goes before those one priority above that came so many full batches after it, so that nobody starves.
PATIENCE = 8


class StepScheduler:
    """Plans the steps of one device. Not safe for several threads.

    ``none`` takes one sequence at a time; ``static`` takes a batch when the one before is over, and reserves all that
    it may need; ``continuous`` takes whoever fits between any two steps, and makes room when the cache is full, or for
    one of a higher priority.
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
        #: A heap by rank of those that have no slot, some of whom have ended.
        self._waiting: list[tuple[tuple[int, int], GeneratingSequence]] = []
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
        #: How many read or decode, by priority; none is 0.
        self._running_with: Counter[int] = Counter()
        #: How often somebody made room.
        self.preemptions = 0
        self._orders = 0
        self._canceled_waiting = 0
        self._known_step = 0

    @property
    def waiting(self) -> int:
        """Sequences that have no slot."""
        return len(self._waiting) - self._canceled_waiting

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
        sequence.rank = (self._orders + sequence.priority * PATIENCE * self._size, self._orders)
        sequence.state = State.WAITING
        sequence.context_tokens = sequence.prompt_tokens
        heappush(self._waiting, (sequence.rank, sequence))

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
            if sequence.order:  # it was added; taken out when its turn comes
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
            self._let_in_urgent(plan)
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
            self._preempt(max((*self._reading, *self._decoding), key=lambda one: one.rank), plan)
        for sequence, page in zip(growing, self._pool.take(len(growing)), strict=True):
            sequence.pages.append(page)
        plan.grown += growing

    def _let_in_urgent(self, plan: StepPlan) -> None:
        """Let in who waits with a higher priority than some that run; where it needs room, they make it."""
        while (first := self._next_waiting()) is not None and max(self._running_with, default=0) > first.priority:
            if self._admit(first, plan):
                continue
            for sequence in (victims := self._victims(first)):
                self._preempt(sequence, plan)
            if not victims or not self._admit(first, plan):
                return

    def _victims(self, sequence: GeneratingSequence) -> list[GeneratingSequence]:
        """Who makes room for ``sequence``, the least important and latest first; nobody where all were not enough."""
        running = (*self._reading, *self._decoding)
        lower = [one for one in running if one.priority > sequence.priority and one.rank > sequence.rank]
        lower.sort(key=lambda one: one.rank, reverse=True)
        missing, found = self._missing_pages(sequence)
        if missing > sum(len(one.pages) + 1 for one in lower):
            return []
        kept, owners = set(found), Counter[int]()
        for count, one in enumerate(lower, 1):
            missing -= one in self._decoding  # its spare page
            owners.update(one.pages)
            missing -= sum(self._pool.owners(page) == owners[page] and page not in kept for page in one.pages)
            if missing <= 0:
                return lower[:count]
        return []

    def _preempt(self, sequence: GeneratingSequence, plan: StepPlan) -> None:
        """Take its slot and pages away; what it was given is read again when it comes back."""
        given = sequence.given(self.step)
        was_decoding = self._take_out(sequence)
        self._free(sequence)
        if sequence in plan.grown:
            plan.grown.remove(sequence)
        if sequence in plan.joined:
            plan.joined.remove(sequence)
        elif was_decoding:
            plan.left.append(sequence)
        sequence.state = State.WAITING
        self.preemptions += 1
        sequence.given_before = given
        sequence.context_tokens = sequence.prompt_tokens + given
        # Its last tokens may not have reached the host yet.
        sequence.first_step, sequence.last_step = None, self.step
        heappush(self._waiting, (sequence.rank, sequence))
        plan.preempted.append(sequence)

    def _read(self, plan: StepPlan) -> None:
        """Give what is left of the budget to prompts: those that are being read first, then newcomers by rank."""
        limits = self.limits
        budget = limits.max_batch_tokens - plan.decoding
        if plan.decoding and limits.prefill_chunk_tokens is not None:
            budget = min(budget, limits.prefill_chunk_tokens)
        for sequence in sorted(self._reading, key=lambda one: one.rank):
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
        """Whose turn it is; None while nobody waits, and while the host does not know all the tokens of that one."""
        waiting = self._waiting
        while waiting and waiting[0][1].state is State.ENDED:
            heappop(waiting)
            self._canceled_waiting -= 1
        # Who never had a slot has no last step.
        return waiting[0][1] if waiting and waiting[0][1].last_step <= self._known_step else None

    def _admit(self, sequence: GeneratingSequence, plan: StepPlan) -> bool:
        """Give the first that waits a slot and the pages of its context; False where there are none."""
        if not self._slots:
            return False
        missing, found = self._missing_pages(sequence)
        if missing > 0:
            return False
        heappop(self._waiting)
        pool, limits = self._pool, self.limits
        pool.share(found)
        sequence.pages = found + pool.take(self._needed_pages(sequence) - len(found))
        sequence.published = len(found)
        sequence.cached_tokens = sequence.read_tokens = len(found) * limits.page_tokens
        sequence.slot = self._slots.pop()
        sequence.state = State.READING
        self._running_with[sequence.priority] += 1
        self._reading[sequence] = None
        plan.admitted.append(sequence)
        return True

    def _needed_pages(self, sequence: GeneratingSequence) -> int:
        more = sequence.max_tokens - 1 if self._by_batch else 0
        return self.limits.pages_for(sequence.context_tokens + more)

    def _missing_pages(self, sequence: GeneratingSequence) -> tuple[int, list[int]]:
        """How many pages too few there are to let it in, negative where some are left; and those it would share."""
        pool = self._pool
        # The last token of the context is always read: what it answers is the next token.
        usable = (sequence.context_tokens - 1) // self.limits.page_tokens
        found = pool.match(sequence.page_keys[:usable]) if sequence.page_keys else []
        # A page for each that decodes is kept back, or newcomers would soon have to make room again.
        spare = 0 if self._by_batch else len(self._decoding)
        available = pool.available - pool.count_idle(found) - spare
        return self._needed_pages(sequence) - len(found) - available, found

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
        self._running_with[sequence.priority] -= 1
        if not self._running_with[sequence.priority]:
            del self._running_with[sequence.priority]
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
