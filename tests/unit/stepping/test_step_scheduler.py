"""The step scheduler as properties: whatever comes, pages and slots come back, and everyone ends with its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.stepping.sequences import GeneratingSequence, State, StepLimits, StepPlan
from windrow.scheduler.stepping.step_scheduler import PATIENCE, STEP_STRATEGIES, StepScheduler

STRATEGIES = st.sampled_from(STEP_STRATEGIES)
LIMITS = st.builds(
    StepLimits,
    max_batch_size=st.integers(1, 6),
    max_batch_tokens=st.integers(1, 40),
    pages=st.integers(16, 40),
    page_tokens=st.sampled_from([1, 2, 4]),
    prefill_chunk_tokens=st.none() | st.integers(1, 8),
)


@dataclass
class Wish:
    """One request of a made-up load."""

    at_step: int
    prompt_tokens: int
    max_tokens: int
    #: Ends by itself after so many tokens, which is told a little later.
    stops_after: int | None = None
    canceled_at: int | None = None
    priority: int = 0
    #: Prompts of one family begin alike.
    family: int | None = None


WISHES = st.lists(
    st.builds(
        Wish,
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
class Run:
    """Drives a scheduler as an engine does, and checks every step from outside."""

    scheduler: StepScheduler
    late: int = 0
    rows: set[GeneratingSequence] = field(default_factory=set)
    #: Tokens in the cache, and tokens given, as the plans say.
    context: dict[GeneratingSequence, int] = field(default_factory=dict)
    given: dict[GeneratingSequence, int] = field(default_factory=dict)
    #: In the order in which they came in for the first time.
    admitted: dict[GeneratingSequence, None] = field(default_factory=dict)

    def step(self) -> StepPlan | None:
        plan = self.scheduler.plan_step()
        if plan is not None:
            self.check(plan)
        return plan

    def check(self, plan: StepPlan) -> None:
        limits = self.scheduler.limits
        assert not set(plan.left) & set(plan.joined)
        assert set(plan.left) <= self.rows
        self.rows = (self.rows - set(plan.left)) | set(plan.joined)
        assert len(self.rows) == plan.decoding <= plan.rows <= limits.max_batch_size
        assert plan.prompt_tokens == sum(chunk.tokens for chunk in plan.chunks)
        assert plan.decoding + plan.prompt_tokens <= max(limits.max_batch_tokens, plan.decoding)
        if plan.decoding and limits.prefill_chunk_tokens is not None:
            assert plan.prompt_tokens <= limits.prefill_chunk_tokens
        for one in self.rows:
            self.context[one] += 1
            self.given[one] += 1
            if one not in plan.ended:
                assert len(one.pages) >= limits.pages_for(self.context[one])
        self.context |= {one: one.cached_tokens for one in plan.admitted}
        self.admitted |= dict.fromkeys(plan.admitted)
        for chunk in plan.chunks:
            one = chunk.sequence
            assert chunk.tokens >= 1
            assert chunk.start == self.context[one]
            self.context[one] = chunk.start + chunk.tokens
            if chunk.is_last:
                assert self.context[one] == one.prompt_tokens + self.given.get(one, 0)
                self.given[one] = self.given.get(one, 0) + 1
        for one in plan.ended:
            assert self.given[one] == one.max_tokens

    def check_pages(self, everybody: list[GeneratingSequence]) -> None:
        scheduler = self.scheduler
        owned = [page for one in everybody for page in one.pages]
        assert len(set(owned)) == scheduler.pages_taken
        alone = [page for one in everybody for page in one.pages[one.published :]]
        assert len(alone) == len(set(alone))
        slots = [one.slot for one in everybody if one.slot is not None]
        assert len(slots) == len(set(slots))
        assert all(0 <= slot < scheduler.limits.max_batch_size for slot in slots)


def sequence_of(number: int, wish: Wish, page_tokens: int) -> GeneratingSequence:
    pages = wish.prompt_tokens // page_tokens
    keys = () if wish.family is None else tuple((wish.family, page) for page in range(pages))
    return GeneratingSequence(number, wish.prompt_tokens, wish.max_tokens, keys, wish.priority)


def play(strategy: str, limits: StepLimits, wishes: list[Wish], late: int) -> tuple[Run, list[GeneratingSequence]]:
    """Run everything to its end; ``late`` steps pass before the driver knows what a step gave."""
    run = Run(StepScheduler(strategy, limits))
    everybody = [sequence_of(number, wish, limits.page_tokens) for number, wish in enumerate(wishes)]
    for now in range(2000):
        for one, wish in zip(everybody, wishes, strict=True):
            if wish.at_step == now:
                run.scheduler.add(one)
            elif wish.canceled_at == now > wish.at_step:
                run.scheduler.end(one)
        plan = run.step()
        # A device that has nothing new to do is soon through with the old.
        known = run.scheduler.step - (late if plan is not None and plan.runs else 0)
        for one, wish in zip(everybody, wishes, strict=True):
            if wish.stops_after is not None and one.state is State.DECODING and one.given(known) >= wish.stops_after:
                run.scheduler.end(one)
        run.scheduler.learned(known)
        run.check_pages(everybody)
        if now > max((wish.at_step for wish in wishes), default=0) and run.scheduler.is_idle:
            return run, everybody
    raise AssertionError("somebody never ended")


@given(STRATEGIES, LIMITS, WISHES, st.integers(0, 2))
def test_everyone_ends_and_every_page_and_slot_comes_back(
    strategy: str, limits: StepLimits, wishes: list[Wish], late: int
) -> None:
    run, everybody = play(strategy, limits, wishes, late)
    assert all(one.state is State.ENDED and one.slot is None and not one.pages for one in everybody)
    assert run.scheduler.pages_taken == 0
    assert (run.scheduler.waiting, run.scheduler.running) == (0, 0)


@given(STRATEGIES, LIMITS, WISHES)
def test_whoever_is_left_alone_gets_exactly_the_tokens_it_asked_for(
    strategy: str, limits: StepLimits, wishes: list[Wish]
) -> None:
    wishes = [replace(wish, stops_after=None, canceled_at=None) for wish in wishes]
    run, everybody = play(strategy, limits, wishes, 1)
    assert [run.given[one] for one in everybody] == [wish.max_tokens for wish in wishes]


@given(STRATEGIES, LIMITS, WISHES)
def test_only_the_more_important_overtake_and_only_those_that_came_soon_after(
    strategy: str, limits: StepLimits, wishes: list[Wish]
) -> None:
    run, _ = play(strategy, limits, wishes, 1)
    size = 1 if strategy == "none" else limits.max_batch_size
    for first, second in combinations(run.admitted, 2):
        assert first.order - second.order <= PATIENCE * size * max(0, second.priority - first.priority)


@given(LIMITS, WISHES, st.integers(1, 10), st.integers(0, 40), st.integers(0, 2))
def test_an_urgent_one_comes_in_with_the_next_step_whatever_less_important_ones_have(
    limits: StepLimits, wishes: list[Wish], prompt_tokens: int, at_step: int, late: int
) -> None:
    run = Run(StepScheduler("continuous", limits))
    crowd = [
        sequence_of(number, replace(wish, priority=1 + wish.priority), limits.page_tokens)
        for number, wish in enumerate(wishes[: PATIENCE * limits.max_batch_size])
    ]
    for one in crowd:
        run.scheduler.add(one)
    for _ in range(at_step):
        run.step()
        run.scheduler.learned(run.scheduler.step - late)
    urgent = sequence(prompt_tokens, 3)
    run.scheduler.add(urgent)
    plan = run.step()
    assert plan is not None
    assert urgent in plan.admitted
    run.check_pages([*crowd, urgent])


@given(LIMITS, WISHES)
def test_batches_never_mix(limits: StepLimits, wishes: list[Wish]) -> None:
    scheduler = StepScheduler("static", limits)
    for number, wish in enumerate(wishes):
        scheduler.add(sequence_of(number, wish, limits.page_tokens))
    batch: set[GeneratingSequence] = set()
    while (plan := scheduler.plan_step()) is not None:
        assert batch.issuperset(plan.released)
        batch -= set(plan.released)
        assert not (batch and plan.admitted)
        batch |= set(plan.admitted)
        # Whoever ended keeps its row, and nobody made room: the batch had reserved all that it needs.
        assert not plan.preempted
        assert not plan.grown


@given(LIMITS, WISHES)
def test_none_runs_one_at_a_time(limits: StepLimits, wishes: list[Wish]) -> None:
    scheduler = StepScheduler("none", limits)
    for number, wish in enumerate(wishes):
        scheduler.add(sequence_of(number, wish, limits.page_tokens))
    while (plan := scheduler.plan_step()) is not None:
        assert plan.rows + len(plan.chunks) <= 1


def limits_of(size: int = 4, tokens: int = 100, pages: int = 100, page_tokens: int = 4) -> StepLimits:
    return StepLimits(size, tokens, pages, page_tokens)


def sequence(prompt_tokens: int, max_tokens: int, keys: tuple[str, ...] = (), priority: int = 0) -> GeneratingSequence:
    return GeneratingSequence(object(), prompt_tokens, max_tokens, keys, priority)


def steps(scheduler: StepScheduler) -> list[StepPlan]:
    plans = []
    while (plan := scheduler.plan_step()) is not None:
        scheduler.learned(plan.number)
        plans += [plan] if plan.runs else []
    return plans


def test_a_short_answer_leaves_and_a_waiting_one_takes_its_place_in_the_next_step() -> None:
    scheduler = StepScheduler("continuous", limits_of(size=2))
    short, long, waiting = sequence(3, 2), sequence(3, 9), sequence(3, 1)
    for one in (short, long, waiting):
        scheduler.add(one)
    plans = steps(scheduler)
    # Step 1 reads two prompts and gives their first tokens, step 2 ends the short one, step 3 reads the third.
    assert [chunk.sequence for chunk in plans[0].chunks] == [short, long]
    assert plans[1].ended == [short]
    assert [chunk.sequence for chunk in plans[2].chunks] == [waiting]
    assert plans[2].ended == [waiting]
    assert plans[2].decoding == 1
    assert len(plans) == 9


def test_a_static_batch_ends_with_its_longest_and_its_ended_rows_are_computed_on() -> None:
    scheduler = StepScheduler("static", limits_of(size=2))
    short, long, waiting = sequence(3, 2), sequence(3, 5), sequence(3, 1)
    for one in (short, long, waiting):
        scheduler.add(one)
    plans = steps(scheduler)
    assert [(plan.decoding, plan.rows) for plan in plans] == [(0, 0), (2, 2), (1, 2), (1, 2), (1, 2), (0, 0)]
    assert plans[5].released == [short, long]
    assert plans[5].admitted == [waiting]


def test_a_long_prompt_is_read_in_pieces_while_others_decode() -> None:
    scheduler = StepScheduler("continuous", replace(limits_of(tokens=20), prefill_chunk_tokens=8))
    scheduler.add(sequence(4, 30))
    scheduler.plan_step()
    scheduler.add(sequence(30, 1))
    plans = [plan for plan in (scheduler.plan_step() for _ in range(4)) if plan is not None]
    assert [(chunk.start, chunk.tokens) for plan in plans for chunk in plan.chunks] == [
        (0, 8),
        (8, 8),
        (16, 8),
        (24, 6),
    ]
    assert all(plan.decoding == 1 for plan in plans)


def test_prompts_that_begin_alike_share_the_pages_of_their_beginning() -> None:
    scheduler = StepScheduler("continuous", limits_of())
    first, second = sequence(10, 3, ("a", "b")), sequence(9, 3, ("a", "b"))
    scheduler.add(first)
    scheduler.plan_step()
    scheduler.add(second)
    plan = scheduler.plan_step()
    assert plan is not None
    assert (second.cached_tokens, second.pages[:2]) == (8, first.pages[:2])
    assert [(chunk.start, chunk.tokens) for chunk in plan.chunks] == [(8, 1)]
    steps(scheduler)
    # Long after both have ended, the beginning is still there.
    third = sequence(8, 1, ("a", "b"))
    scheduler.add(third)
    assert scheduler.plan_step() is not None
    # Its last token has to be read for the next one to come, so its second page is read again.
    assert third.cached_tokens == 4


def test_the_latest_of_the_least_important_makes_room_and_comes_back_first() -> None:
    scheduler = StepScheduler("continuous", limits_of(size=3, pages=8, page_tokens=2))
    old, urgent, late = sequence(2, 6, priority=1), sequence(2, 6), sequence(2, 6, priority=1)
    for one in (old, urgent, late):
        scheduler.add(one)
    waiting = sequence(1, 1, priority=1)
    plans = [plan for plan in (scheduler.plan_step() for _ in range(4)) if plan is not None]
    assert [plan.preempted for plan in plans] == [[], [], [], [late]]
    assert (late.state, late.slot, late.pages, late.given_before) == (State.WAITING, None, [], 3)
    scheduler.add(waiting)
    order = [one for plan in steps(scheduler) for one in plan.admitted]
    assert order == [late, waiting]


def test_one_of_low_priority_ends_in_an_endless_flood_of_high_ones() -> None:
    scheduler = StepScheduler("continuous", limits_of(size=2))
    low = sequence(1, 20, priority=2)
    scheduler.add(low)
    came = 0
    while low.state is not State.ENDED:
        scheduler.add(sequence(1, 1))
        scheduler.add(sequence(1, 1))
        came += 2
        assert came < 200
        plan = scheduler.plan_step()
        assert plan is not None
        scheduler.learned(plan.number)
    assert came > PATIENCE * 2 * 2


def test_those_that_made_room_for_each_other_still_make_room_for_an_urgent_one() -> None:
    scheduler = StepScheduler("continuous", limits_of(size=16, pages=96, page_tokens=16))
    crowd = [sequence(10, 900, priority=2) for _ in range(16)]
    for one in crowd:
        scheduler.add(one)
    for number in range(600):
        scheduler.plan_step()
        scheduler.learned(number)
    assert scheduler.preemptions
    urgent = sequence(10, 5)
    scheduler.add(urgent)
    plan = scheduler.plan_step()
    assert plan is not None
    assert [chunk.sequence for chunk in plan.chunks if chunk.is_last][:1] == [urgent]
    scheduler.learned(scheduler.step)
    steps(scheduler)
    assert {one.state for one in crowd} == {State.ENDED}
    assert scheduler.pages_taken == 0


def test_whoever_made_room_waits_until_its_tokens_are_known() -> None:
    scheduler = StepScheduler("continuous", limits_of(size=2, pages=4, page_tokens=2))
    first, second = sequence(2, 6), sequence(2, 6)
    scheduler.add(first)
    scheduler.add(second)
    while not (plan := scheduler.plan_step()) or not plan.preempted:
        pass
    scheduler.end(first)
    nothing = scheduler.plan_step()
    assert nothing is not None
    assert not nothing.runs
    assert scheduler.plan_step() is None
    assert not scheduler.is_idle
    scheduler.learned(scheduler.step)
    plan = scheduler.plan_step()
    assert plan is not None
    assert plan.admitted == [second]
    assert plan.chunks[0].tokens == second.prompt_tokens + second.given_before


def test_a_sequence_that_cannot_ever_fit_is_refused() -> None:
    scheduler = StepScheduler("continuous", limits_of(pages=3, page_tokens=4))
    scheduler.add(sequence(8, 5))
    with pytest.raises(ValueError, match="may need 4 pages; the cache has 3"):
        scheduler.add(sequence(8, 6))
    with pytest.raises(ValueError, match="at least one token"):
        scheduler.add(sequence(8, 0))
    with pytest.raises(ValueError, match="unknown strategy 'packed'"):
        StepScheduler("packed", limits_of())
