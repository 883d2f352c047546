"""The step scheduler by example: one test per decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from windrow.scheduler.stepping.sequences import GeneratingSequence, State, StepLimits, StepPlan
from windrow.scheduler.stepping.step_scheduler import PATIENCE, StepScheduler


def make_limits(size: int = 4, tokens: int = 100, pages: int = 100, page_tokens: int = 4) -> StepLimits:
    return StepLimits(size, tokens, pages, page_tokens)


def make_sequence(
    prompt_tokens: int, max_tokens: int, keys: tuple[str, ...] = (), priority: int = 0
) -> GeneratingSequence:
    return GeneratingSequence(object(), prompt_tokens, max_tokens, keys, priority)


def run_all(scheduler: StepScheduler) -> list[StepPlan]:
    plans = []
    while (plan := scheduler.plan_step()) is not None:
        scheduler.collected(plan.number)
        plans += [plan] if plan.runs else []
    return plans


def plan_next(scheduler: StepScheduler) -> StepPlan:
    plan = scheduler.plan_step()
    assert plan is not None
    return plan


def test_a_waiting_sequence_takes_the_slot_of_an_ended_one_in_the_next_step() -> None:
    scheduler = StepScheduler("continuous", make_limits(size=2))
    short, long, waiting = make_sequence(3, 2), make_sequence(3, 9), make_sequence(3, 1)
    for sequence in (short, long, waiting):
        scheduler.add(sequence)
    plans = run_all(scheduler)
    # Step 1 prefills two prompts and generates their first tokens, step 2 ends the short one, step 3 admits the third.
    assert [chunk.sequence for chunk in plans[0].chunks] == [short, long]
    assert plans[1].ended == [short]
    assert [chunk.sequence for chunk in plans[2].chunks] == [waiting]
    assert plans[2].ended == [waiting]
    assert plans[2].decoding == 1
    assert len(plans) == 9


def test_a_static_batch_ends_with_its_longest_sequence_and_computes_the_rows_of_ended_ones() -> None:
    scheduler = StepScheduler("static", make_limits(size=2))
    short, long, waiting = make_sequence(3, 2), make_sequence(3, 5), make_sequence(3, 1)
    for sequence in (short, long, waiting):
        scheduler.add(sequence)
    plans = run_all(scheduler)
    assert [(plan.decoding, plan.rows) for plan in plans] == [(0, 0), (2, 2), (1, 2), (1, 2), (1, 2), (0, 0)]
    assert plans[5].released == [short, long]
    assert plans[5].admitted == [waiting]


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode() -> None:
    scheduler = StepScheduler("continuous", replace(make_limits(tokens=20), prefill_chunk_tokens=8))
    scheduler.add(make_sequence(4, 30))
    plan_next(scheduler)
    scheduler.add(make_sequence(30, 1))
    plans = [plan_next(scheduler) for _ in range(4)]
    chunks = [(chunk.start, chunk.tokens) for plan in plans for chunk in plan.chunks]
    assert chunks == [(0, 8), (8, 8), (16, 8), (24, 6)]
    assert all(plan.decoding == 1 for plan in plans)


def test_prompts_with_an_equal_prefix_share_its_pages() -> None:
    scheduler = StepScheduler("continuous", make_limits())
    first, second = make_sequence(10, 3, ("a", "b")), make_sequence(9, 3, ("a", "b"))
    scheduler.add(first)
    plan_next(scheduler)
    scheduler.add(second)
    plan = plan_next(scheduler)
    assert (second.cached_tokens, second.pages[:2]) == (8, first.pages[:2])
    assert [(chunk.start, chunk.tokens) for chunk in plan.chunks] == [(8, 1)]
    run_all(scheduler)
    # The pages keep the prefix after both sequences have ended.
    third = make_sequence(8, 1, ("a", "b"))
    scheduler.add(third)
    plan_next(scheduler)
    # The last prompt token must be prefilled to generate the next one, so the second page is computed again.
    assert third.cached_tokens == 4


def test_siblings_are_queued_when_the_prefill_of_the_first_is_complete_and_share_its_pages() -> None:
    scheduler = StepScheduler("continuous", replace(make_limits(), max_batch_tokens=6))
    first, second, canceled = (make_sequence(10, 4, ("a", "b")) for _ in range(3))
    first.siblings = [second, canceled]
    scheduler.add(first)
    assert [chunk.sequence for chunk in plan_next(scheduler).chunks] == [first]
    scheduler.end(canceled)
    assert scheduler.waiting == 0
    plan_next(scheduler)
    assert scheduler.waiting == 1
    assert plan_next(scheduler).admitted == [second]
    assert second.cached_tokens == 8
    run_all(scheduler)
    assert {one.state for one in (first, second, canceled)} == {State.ENDED}
    assert scheduler.is_idle


def test_a_full_cache_preempts_the_latest_of_the_least_urgent_which_is_readmitted_first() -> None:
    scheduler = StepScheduler("continuous", make_limits(size=3, pages=8, page_tokens=2))
    early, urgent, late = make_sequence(2, 6, priority=1), make_sequence(2, 6), make_sequence(2, 6, priority=1)
    for sequence in (early, urgent, late):
        scheduler.add(sequence)
    plans = [plan_next(scheduler) for _ in range(4)]
    assert [plan.preempted for plan in plans] == [[], [], [], [late]]
    assert (late.state, late.slot, late.pages, late.generated_before) == (State.WAITING, None, [], 3)
    waiting = make_sequence(1, 1, priority=1)
    scheduler.add(waiting)
    assert [one for plan in run_all(scheduler) for one in plan.admitted] == [late, waiting]


def test_a_low_priority_sequence_ends_although_urgent_ones_keep_arriving() -> None:
    scheduler = StepScheduler("continuous", make_limits(size=2))
    low = make_sequence(1, 20, priority=2)
    scheduler.add(low)
    arrived = 0
    while low.state is not State.ENDED:
        scheduler.add(make_sequence(1, 1))
        scheduler.add(make_sequence(1, 1))
        arrived += 2
        assert arrived < 200
        scheduler.collected(plan_next(scheduler).number)
    assert arrived > PATIENCE * 2 * 2


def test_an_urgent_sequence_is_admitted_although_others_were_preempted_before() -> None:
    scheduler = StepScheduler("continuous", make_limits(size=16, pages=96, page_tokens=16))
    others = [make_sequence(10, 900, priority=2) for _ in range(16)]
    for sequence in others:
        scheduler.add(sequence)
    for number in range(600):
        scheduler.plan_step()
        scheduler.collected(number)
    assert scheduler.preemptions
    urgent = make_sequence(10, 5)
    scheduler.add(urgent)
    plan = plan_next(scheduler)
    assert [chunk.sequence for chunk in plan.chunks if chunk.is_last][:1] == [urgent]
    scheduler.collected(scheduler.step)
    run_all(scheduler)
    assert {one.state for one in others} == {State.ENDED}
    assert scheduler.pages_taken == 0


def test_a_sequence_that_is_preempted_and_admitted_again_within_one_plan_ends_once() -> None:
    scheduler = StepScheduler("continuous", make_limits(size=2, pages=3, page_tokens=1))
    low, normal = make_sequence(1, 2, priority=2), make_sequence(1, 2, priority=1)
    scheduler.add(low)
    scheduler.collected(plan_next(scheduler).number)
    scheduler.add(normal)
    plan = plan_next(scheduler)
    assert (plan.preempted, plan.admitted) == ([low], [normal, low])
    # The prefill of its prompt and its first token generates its last token in the same step as planned before.
    assert plan.ended == [low]
    run_all(scheduler)
    assert normal.state is State.ENDED
    assert scheduler.pages_taken == 0


def test_a_preempted_sequence_waits_until_the_host_knows_its_tokens() -> None:
    scheduler = StepScheduler("continuous", make_limits(size=2, pages=4, page_tokens=2))
    first, second = make_sequence(2, 6), make_sequence(2, 6)
    scheduler.add(first)
    scheduler.add(second)
    while not plan_next(scheduler).preempted:
        pass
    scheduler.end(first)
    assert not plan_next(scheduler).runs
    assert scheduler.plan_step() is None
    assert not scheduler.is_idle
    scheduler.collected(scheduler.step)
    plan = plan_next(scheduler)
    assert plan.admitted == [second]
    assert plan.chunks[0].tokens == second.prompt_tokens + second.generated_before


def test_a_sequence_that_can_never_run_is_refused() -> None:
    scheduler = StepScheduler("continuous", make_limits(pages=3, page_tokens=4))
    scheduler.add(make_sequence(8, 5))
    with pytest.raises(ValueError, match="may need 4 pages; the cache has 3"):
        scheduler.add(make_sequence(8, 6))
    with pytest.raises(ValueError, match="8 prompt tokens and max_tokens 0; both must be at least one token"):
        scheduler.add(make_sequence(8, 0))
    with pytest.raises(ValueError, match="unknown strategy 'packed'; accepted are none, static, continuous"):
        StepScheduler("packed", make_limits())
