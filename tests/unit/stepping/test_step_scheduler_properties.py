"""Properties of the step scheduler: no page, slot or token is lost, and the strategies keep their rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.scheduled_run import ARRIVALS, LIMITS, Arrival, ScheduledRun, run_to_end
from windrow.scheduler.stepping.sequences import GeneratingSequence, State, StepLimits
from windrow.scheduler.stepping.step_scheduler import PATIENCE, STEP_STRATEGIES, StepScheduler

STRATEGIES = st.sampled_from(STEP_STRATEGIES)


@given(STRATEGIES, LIMITS, ARRIVALS, st.integers(0, 2))
def test_every_sequence_ends_and_every_page_and_slot_is_freed(
    strategy: str, limits: StepLimits, arrivals: list[Arrival], late: int
) -> None:
    run, sequences = run_to_end(strategy, limits, arrivals, late)
    assert all(one.state is State.ENDED and one.slot is None and not one.pages for one in sequences)
    assert run.scheduler.pages_taken == 0
    assert (run.scheduler.waiting, run.scheduler.running) == (0, 0)


@given(STRATEGIES, LIMITS, ARRIVALS)
def test_a_sequence_that_nothing_ends_early_generates_max_tokens(
    strategy: str, limits: StepLimits, arrivals: list[Arrival]
) -> None:
    arrivals = [replace(arrival, stops_after=None, canceled_at=None) for arrival in arrivals]
    run, sequences = run_to_end(strategy, limits, arrivals, 1)
    assert [run.generated[one] for one in sequences] == [arrival.max_tokens for arrival in arrivals]


@given(STRATEGIES, LIMITS, ARRIVALS)
def test_only_more_urgent_sequences_that_arrive_soon_after_another_are_admitted_before_it(
    strategy: str, limits: StepLimits, arrivals: list[Arrival]
) -> None:
    run, _ = run_to_end(strategy, limits, arrivals, 1)
    size = 1 if strategy == "none" else limits.max_batch_size
    for first, second in combinations(run.admitted, 2):
        assert first.order - second.order <= PATIENCE * size * max(0, second.priority - first.priority)


@given(LIMITS, ARRIVALS, st.integers(1, 10), st.integers(0, 40), st.integers(0, 2))
def test_an_urgent_sequence_is_admitted_with_the_next_step_whatever_less_urgent_ones_own(
    limits: StepLimits, arrivals: list[Arrival], prompt_tokens: int, at_step: int, late: int
) -> None:
    run = ScheduledRun(StepScheduler("continuous", limits))
    others = [
        replace(arrival, priority=1 + arrival.priority).sequence(number, limits.page_tokens)
        for number, arrival in enumerate(arrivals[: PATIENCE * limits.max_batch_size])
    ]
    for sequence in others:
        run.scheduler.add(sequence)
    for _ in range(at_step):
        run.step()
        run.scheduler.collected(run.scheduler.step - late)
    urgent = GeneratingSequence("urgent", prompt_tokens, 3)
    run.scheduler.add(urgent)
    plan = run.step()
    assert plan is not None
    assert urgent in plan.admitted
    run.check_pages([*others, urgent])


@given(LIMITS, ARRIVALS)
def test_static_batches_never_mix_and_never_grow_or_preempt(limits: StepLimits, arrivals: list[Arrival]) -> None:
    scheduler = StepScheduler("static", limits)
    for number, arrival in enumerate(arrivals):
        scheduler.add(arrival.sequence(number, limits.page_tokens))
    batch: set[GeneratingSequence] = set()
    while (plan := scheduler.plan_step()) is not None:
        assert batch.issuperset(plan.released)
        batch -= set(plan.released)
        assert not (batch and plan.admitted)
        batch |= set(plan.admitted)
        assert not plan.preempted
        assert not plan.grown


@given(LIMITS, ARRIVALS)
def test_strategy_none_runs_one_sequence_at_a_time(limits: StepLimits, arrivals: list[Arrival]) -> None:
    scheduler = StepScheduler("none", limits)
    for number, arrival in enumerate(arrivals):
        scheduler.add(arrival.sequence(number, limits.page_tokens))
    while (plan := scheduler.plan_step()) is not None:
        assert plan.rows + len(plan.chunks) <= 1
