"""Drives a `StepScheduler` as an engine does, and checks every plan from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from windrow.scheduler.stepping.sequences import GeneratingSequence, State, StepLimits, StepPlan
from windrow.scheduler.stepping.step_scheduler import StepScheduler

LIMITS = st.builds(
    StepLimits,
    max_batch_size=st.integers(1, 6),
    max_batch_tokens=st.integers(1, 40),
    pages=st.integers(16, 40),
    page_tokens=st.sampled_from([1, 2, 4]),
    prefill_chunk_tokens=st.none() | st.integers(1, 8),
)


@dataclass(frozen=True)
class Arrival:
    """One request of a generated load."""

    at_step: int
    prompt_tokens: int
    max_tokens: int
    #: Ends by content after this many tokens, which the scheduler learns later.
    stops_after: int | None = None
    canceled_at: int | None = None
    priority: int = 0
    #: Prompts of one family share a prefix.
    family: int | None = None

    def sequence(self, number: int, page_tokens: int) -> GeneratingSequence:
        pages = self.prompt_tokens // page_tokens
        keys = () if self.family is None else tuple((self.family, page) for page in range(pages))
        return GeneratingSequence(number, self.prompt_tokens, self.max_tokens, keys, self.priority)


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        at_step=st.integers(0, 30),
        prompt_tokens=st.integers(1, 10),
        max_tokens=st.integers(1, 7),
        stops_after=st.none() | st.integers(1, 7),
        canceled_at=st.none() | st.integers(0, 40),
        priority=st.integers(0, 2),
        family=st.none() | st.integers(0, 1),
    ),
    max_size=24,
)


@dataclass
class ScheduledRun:
    """Follows the plans of ``scheduler`` and fails on the first that breaks a rule."""

    scheduler: StepScheduler
    decoding: set[GeneratingSequence] = field(default_factory=set)
    #: Tokens in the cache, and tokens generated, according to the plans.
    context: dict[GeneratingSequence, int] = field(default_factory=dict)
    generated: dict[GeneratingSequence, int] = field(default_factory=dict)
    #: In the order of the first admission.
    admitted: dict[GeneratingSequence, None] = field(default_factory=dict)

    def step(self) -> StepPlan | None:
        plan = self.scheduler.plan_step()
        if plan is not None:
            self._check_rows(plan)
            self._check_decode(plan)
            self._check_prefill(plan)
            for sequence in plan.ended:
                assert self.generated[sequence] == sequence.max_tokens
        return plan

    def _check_rows(self, plan: StepPlan) -> None:
        limits = self.scheduler.limits
        assert not set(plan.stopped) & set(plan.started)
        assert set(plan.stopped) <= self.decoding
        self.decoding = (self.decoding - set(plan.stopped)) | set(plan.started)
        assert len(self.decoding) == plan.decoding <= plan.rows <= limits.max_batch_size
        assert plan.prompt_tokens == sum(chunk.tokens for chunk in plan.chunks)
        assert plan.decoding + plan.prompt_tokens <= max(limits.max_batch_tokens, plan.decoding)
        if plan.decoding and limits.prefill_chunk_tokens is not None:
            assert plan.prompt_tokens <= limits.prefill_chunk_tokens

    def _check_decode(self, plan: StepPlan) -> None:
        for sequence in self.decoding:
            self.context[sequence] += 1
            self.generated[sequence] += 1
            if sequence not in plan.ended:
                assert len(sequence.pages) >= self.scheduler.limits.pages_for(self.context[sequence])

    def _check_prefill(self, plan: StepPlan) -> None:
        self.context |= {sequence: sequence.cached_tokens for sequence in plan.admitted}
        self.admitted |= dict.fromkeys(plan.admitted)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            assert chunk.tokens >= 1
            assert chunk.start == self.context[sequence]
            self.context[sequence] = chunk.start + chunk.tokens
            if chunk.is_last:
                assert self.context[sequence] == sequence.prompt_tokens + self.generated.get(sequence, 0)
                self.generated[sequence] = self.generated.get(sequence, 0) + 1

    def check_pages(self, sequences: Sequence[GeneratingSequence]) -> None:
        """Check that no page and no slot has two owners that do not share it."""
        scheduler = self.scheduler
        owned = [page for sequence in sequences for page in sequence.pages]
        assert len(set(owned)) == scheduler.pages_taken
        unshared = [page for sequence in sequences for page in sequence.pages[sequence.published :]]
        assert len(unshared) == len(set(unshared))
        slots = [sequence.slot for sequence in sequences if sequence.slot is not None]
        assert len(slots) == len(set(slots))
        assert all(0 <= slot < scheduler.limits.max_batch_size for slot in slots)


def run_to_end(
    strategy: str, limits: StepLimits, arrivals: list[Arrival], late: int
) -> tuple[ScheduledRun, list[GeneratingSequence]]:
    """Run all ``arrivals`` until they finish; the scheduler learns the tokens of a step ``late`` steps after it."""
    run = ScheduledRun(StepScheduler(strategy, limits))
    sequences = [arrival.sequence(number, limits.page_tokens) for number, arrival in enumerate(arrivals)]
    for now in range(2000):
        for sequence, arrival in zip(sequences, arrivals, strict=True):
            if arrival.at_step == now:
                run.scheduler.add(sequence)
            elif arrival.canceled_at == now > arrival.at_step:
                run.scheduler.end(sequence)
        plan = run.step()
        # A device without a new step soon completes the previous ones.
        known = run.scheduler.step - (late if plan is not None and plan.runs else 0)
        for sequence, arrival in zip(sequences, arrivals, strict=True):
            stops_after = arrival.stops_after or arrival.max_tokens + 1
            if sequence.state is State.DECODING and sequence.generated(known) >= stops_after:
                run.scheduler.end(sequence)
        run.scheduler.collected(known)
        run.check_pages(sequences)
        if now > max((arrival.at_step for arrival in arrivals), default=0) and run.scheduler.is_idle:
            return run, sequences
    raise AssertionError("a sequence never ended")
