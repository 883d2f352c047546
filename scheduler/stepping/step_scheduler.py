"""The step scheduler: decides before every step which sequences decode, prefill, are admitted or are preempted.

A step generates one token for every decoding sequence and prefills chunks of newly admitted contexts. The engine runs
the steps on a device and the laboratory on a virtual clock; both call this code. The caller may plan a step or two
before it has the tokens of the previous one: an end by length is known when the step is planned, and `end` reports one
by content later.
"""

from __future__ import annotations

from windrow.scheduler.stepping.admission import Admission
from windrow.scheduler.stepping.claiming import ClaimLimits
from windrow.scheduler.stepping.preemption import last_in_rank, plan_preemption
from windrow.scheduler.stepping.running import RunningSequences
from windrow.scheduler.stepping.sequences import GeneratingSequence, PrefillChunk, State, StepLimits, StepPlan
from windrow.scheduler.stepping.waiting import WaitingSequences

#: Accepted values of ``strategy`` for models that generate.
STEP_STRATEGIES = ("none", "static", "continuous")
#: Number of full batches after which a sequence is admitted before later ones of the next higher priority, so that no
#: sequence starves.
PATIENCE = 8


class StepScheduler:
    """Plans the steps of one device. Not thread-safe.

    Strategy ``none`` runs one sequence at a time. ``static`` admits a batch when the previous one has ended, and
    reserves the pages of all its tokens. ``continuous`` admits sequences between any two steps, and preempts others
    when the cache is full or a sequence of a higher priority waits.
    """

    def __init__(self, strategy: str, limits: StepLimits) -> None:
        """Raises `ValueError` for an unknown strategy."""
        if strategy not in STEP_STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; accepted are {', '.join(STEP_STRATEGIES)}")
        self.strategy = strategy
        self.limits = limits
        self.claims = ClaimLimits.of(strategy, limits.max_batch_size)
        #: Number of the last step that was planned and computes anything.
        self.step = 0
        #: Number of preemptions so far.
        self.preemptions = 0
        self._runs_whole_batches = strategy != "continuous"
        self._waiting = WaitingSequences()
        self._running = RunningSequences(limits.page_tokens)
        self._admission = Admission(limits, self.claims.max_sequences, reserves_output=self._runs_whole_batches)
        #: Sequences that stopped decoding since the last plan.
        self._stopped: list[GeneratingSequence] = []
        #: Sequences with a chunk in the last step. Their pages are shared from the next plan on, because the forward
        #: pass that fills them may fail.
        self._prefilled: list[GeneratingSequence] = []
        #: Sequences that reached ``max_tokens`` in the last step and own their pages until the next plan.
        self._last_tokens: list[GeneratingSequence] = []
        #: ``none`` and ``static``: ended sequences that keep their slots until their batch ends, then released.
        self._ended_in_batch: list[GeneratingSequence] = []
        self._released: list[GeneratingSequence] = []
        #: Sequences with siblings whose prefill the last step completes.
        self._have_siblings: list[GeneratingSequence] = []
        self._added = 0
        self._known_step = 0

    @property
    def waiting(self) -> int:
        """Number of sequences without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of sequences in prefill or decode."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether no sequence waits or runs, and no change remains to be reported in a plan."""
        return not (self.waiting or len(self._running) or self._stopped or self._last_tokens or self._released)

    @property
    def pages_taken(self) -> int:
        """Number of pages that have an owner."""
        return self.limits.pages - self._admission.pool.available

    def add(self, sequence: GeneratingSequence) -> None:
        """Queue a sequence; raise `ValueError` if it has no tokens or can never fit the cache."""
        self._admission.check_size(sequence)
        self._added += 1
        sequence.order = self._added
        delay = sequence.priority * PATIENCE * self.claims.max_sequences
        sequence.rank = (self._added + delay, self._added)
        sequence.context_tokens = sequence.prompt_tokens
        self._waiting.push(sequence)

    def end(self, sequence: GeneratingSequence) -> None:
        """End a sequence that was canceled, failed, or ended by its content; no later step includes it.

        Pages filled by the last step are not shared. Does nothing else for a sequence that has ended already.
        """
        if sequence in self._prefilled:
            self._prefilled.remove(sequence)
        if sequence.state is State.ENDED:
            return
        if sequence.state is State.WAITING:
            self._waiting.cancel(sequence)
            return
        if self._running.remove(sequence):
            self._stopped.append(sequence)
        self._free_ended(sequence)

    def collected(self, step: int) -> None:
        """Record that the host has the tokens of all steps up to ``step``, and called `end` for those that ended."""
        self._known_step = max(self._known_step, step)

    def plan_step(self) -> StepPlan | None:
        """Plan the next step; return None if there is nothing to compute and no change to report."""
        for sequence in self._prefilled:
            self._admission.publish_prefix(sequence)
        for sequence in self._last_tokens:
            self._free_ended(sequence)
        self._prefilled, self._last_tokens = [], []
        if self.is_idle:
            return None
        plan = StepPlan(self.step + 1, self._stopped, [], [], [], [], [], [], self._released)
        self._stopped, self._released = [], []
        plan.started = self._running.start_decoding()
        if not self._runs_whole_batches:
            self._grow(plan)
            self._admit_urgent(plan)
        plan.decoding = len(self._running.decoding)
        plan.rows = plan.decoding + len(self._ended_in_batch)
        self._prefill(plan)
        if not plan.runs:
            # The sequences that remain wait for tokens that have not reached the host yet.
            return plan if plan.stopped or plan.released else None
        self.step = plan.number
        self._end_by_length(plan)
        if self._have_siblings:
            self._add_siblings()
        return plan

    def _grow(self, plan: StepPlan) -> None:
        """Allocate a page to each sequence whose token begins one; preempt sequences while the cache is full."""
        growing, pool = self._running.needing_page(plan.number), self._admission.pool
        while len(growing) > pool.available:
            self._preempt(last_in_rank(self._running.preemptible), plan)
        if growing:
            for sequence, page in zip(growing, pool.take(len(growing)), strict=True):
                sequence.pages.append(page)
            plan.grown += growing

    def _admit_urgent(self, plan: StepPlan) -> None:
        """Admit waiting sequences of a higher priority than some running ones, which are preempted if necessary."""
        while (first := self._waiting.first(self._known_step)) is not None:
            if self._running.least_urgent_priority <= first.priority:
                return
            if self._admit(first, plan):
                continue
            running = self._running
            missing, shared = self._admission.missing_pages(first, len(running.decoding))
            victims = plan_preemption(
                first, running.preemptible, running.decoding, self._admission.pool, missing, shared
            )
            for sequence in victims:
                self._preempt(sequence, plan)
            if not victims or not self._admit(first, plan):
                return

    def _preempt(self, sequence: GeneratingSequence, plan: StepPlan) -> None:
        """Return a running sequence to the queue; after its next admission, its generated tokens are prefilled too."""
        generated = sequence.generated(self.step)
        was_decoding = self._running.remove(sequence)
        self._admission.free(sequence)
        if sequence in plan.grown:
            plan.grown.remove(sequence)
        if sequence in plan.started:
            plan.started.remove(sequence)
        elif was_decoding:
            plan.stopped.append(sequence)
        self.preemptions += 1
        sequence.generated_before = generated
        sequence.context_tokens = sequence.prompt_tokens + generated
        # Its last tokens may not have reached the host yet.
        sequence.first_step, sequence.last_step = None, self.step
        self._waiting.push(sequence)
        plan.preempted.append(sequence)

    def _prefill(self, plan: StepPlan) -> None:
        """Spend the rest of the token budget on prefill: first of admitted sequences, then of waiting ones, by rank."""
        budget = self.limits.max_batch_tokens - plan.decoding
        if plan.decoding and self.limits.prefill_chunk_tokens is not None:
            budget = min(budget, self.limits.prefill_chunk_tokens)
        if self._running.prefilling:
            for sequence in sorted(self._running.prefilling, key=lambda one: one.rank):
                if budget < 1:
                    return
                budget -= self._prefill_chunk(sequence, budget, plan)
        if self._runs_whole_batches and (self.running or self._ended_in_batch):
            return
        # A batch is complete with its first step, so it admits sequences beyond the budget and prefills them later.
        # No sequence overtakes the first: one that does not fit yet blocks the others, and so is admitted in the end.
        while budget > 0 or self._runs_whole_batches:
            first = self._waiting.first(self._known_step)
            if first is None or not self._admit(first, plan):
                return
            if budget > 0:
                budget -= self._prefill_chunk(first, budget, plan)

    def _admit(self, first: GeneratingSequence, plan: StepPlan) -> bool:
        """Admit the first waiting sequence; return False if slots or pages are missing."""
        if not self._admission.admit(first, len(self._running.decoding)):
            return False
        self._waiting.pop_first()
        self._running.begin_prefill(first)
        plan.admitted.append(first)
        return True

    def _prefill_chunk(self, sequence: GeneratingSequence, budget: int, plan: StepPlan) -> int:
        """Plan the next chunk of a sequence; return its tokens."""
        start = sequence.prefilled_tokens
        tokens = min(budget, sequence.context_tokens - start)
        sequence.prefilled_tokens = start + tokens
        is_last = sequence.prefilled_tokens == sequence.context_tokens
        plan.chunks.append(PrefillChunk(sequence, start, tokens, is_last))
        plan.prompt_tokens += tokens
        if sequence.page_keys:
            self._prefilled.append(sequence)
        if is_last:
            self._running.complete_prefill(sequence, plan.number)
            if sequence.siblings:
                self._have_siblings.append(sequence)
        return tokens

    def _end_by_length(self, plan: StepPlan) -> None:
        """End the sequences that reach ``max_tokens`` in this step; they own their pages until the next plan."""
        for sequence in self._running.reaching_max_tokens(plan.number):
            plan.ended.append(sequence)
            if self._running.remove(sequence):
                self._stopped.append(sequence)
            sequence.state = State.ENDED
        self._last_tokens = plan.ended

    def _add_siblings(self) -> None:
        """Queue the siblings of sequences whose prefill is complete: from now on they can share its pages."""
        for sequence in self._have_siblings:
            for sibling in sequence.siblings:
                if not sibling.order and sibling.state is State.WAITING:
                    self.add(sibling)
        self._have_siblings = []

    def _free_ended(self, sequence: GeneratingSequence) -> None:
        """Free the slot and pages of an ended sequence: at once, or in a whole batch when all its sequences ended."""
        sequence.state = State.ENDED
        if not self._runs_whole_batches:
            self._admission.free(sequence)
            return
        self._ended_in_batch.append(sequence)
        if not self.running:
            for ended in self._ended_in_batch:
                self._admission.free(ended)
            self._released += self._ended_in_batch
            self._ended_in_batch = []
