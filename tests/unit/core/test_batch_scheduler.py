"""The batch scheduler of one model: claims, windows and their order."""

import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.batch_scheduler import (
    BATCHES_AHEAD,
    TOKEN_LIMITED_CLAIM,
    BatchScheduler,
    ClaimUpTo,
    choose_window,
)
from windrow.scheduler.core.window import Close, Wait, WindowLimits

#: Steps of a run: requests ready in the queue, cost of each, seconds since their arrival, seconds that pass afterwards.
STEPS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 400), st.floats(0, 0.1), st.floats(0, 0.2)), min_size=1, max_size=40
)
LIMITS = st.builds(
    WindowLimits, st.integers(1, 10), st.integers(1, 1000), st.sampled_from([0.0, 0.005, 0.05]), st.booleans()
)


@dataclass
class Driver:
    """Claims and takes requests as the scheduler decides, and records them in order."""

    scheduler: BatchScheduler
    limits: WindowLimits
    now_s: float = 0.0
    #: Arrival and cost of each waiting request.
    waiting: list[tuple[float, int]] = field(default_factory=list)
    added: list[tuple[float, int]] = field(default_factory=list)
    taken: list[tuple[float, int]] = field(default_factory=list)

    def claim(self, ready: int, cost: int, age_s: float) -> None:
        plan = self.scheduler.plan_claim(self.now_s, self.scheduler)
        if not isinstance(plan, ClaimUpTo):
            return
        assert 1 <= plan.fills_batch <= plan.size <= self.limits.max_batch_size
        self.scheduler.reserve(plan.size)
        count = min(plan.size, ready)
        self.scheduler.release(plan.size)
        if count:
            requests = [(self.now_s - age_s, cost)] * count
            position = self.scheduler.add(self.now_s, [self.now_s - age_s] * count, [cost] * count, 0.0)
            assert position == len(self.waiting)
            self.waiting += requests
            self.added += requests

    def take(self) -> None:
        """Take the requests of the window if it closes now."""
        if not self.waiting:
            return
        decision = self.scheduler.decide(self.now_s)
        opened_s = min(arrived_s for arrived_s, _ in self.waiting)
        ends_s = opened_s + self.scheduler.max_wait_s
        if isinstance(decision, Wait):
            assert self.now_s < decision.until_s == ends_s  # measured from the first request
            return
        assert decision.closed_by != "wait" or self.now_s >= ends_s
        count = self.scheduler.take(self.now_s)
        window, self.waiting = self.waiting[:count], self.waiting[count:]
        assert 1 <= count <= self.limits.max_batch_size
        assert count == 1 or sum(cost for _, cost in window) <= self.limits.max_batch_tokens
        self.taken += window


@given(LIMITS, STEPS)
def test_no_request_is_lost_or_overtaken_and_no_limit_is_exceeded(
    limits: WindowLimits, steps: list[tuple[int, int, float, float]]
) -> None:
    driver = Driver(BatchScheduler(limits), limits)
    for ready, cost, age_s, seconds in steps:
        driver.claim(ready, cost, age_s)
        if not driver.scheduler.is_running:
            driver.take()
        driver.now_s += seconds
        driver.scheduler.end_run(driver.now_s)
        assert driver.scheduler.waiting == len(driver.waiting) <= BATCHES_AHEAD * limits.max_batch_size
    while driver.waiting:
        driver.now_s += 1.0
        driver.scheduler.end_run(driver.now_s)
        driver.take()
    assert driver.taken == driver.added


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5)), min_size=1, max_size=30))
def test_requests_wait_in_claim_order_even_if_prepared_in_another_order(
    claims: list[tuple[float, int]],
) -> None:
    scheduler = BatchScheduler(WindowLimits(1000, 100_000, 0.0))
    order: list[float] = []
    for claimed_s, count in claims:
        position = scheduler.add(claimed_s, [0.0] * count, [1] * count, 0.0)
        order[position:position] = [claimed_s] * count
    assert order == sorted(order)
    assert scheduler.first_claimed_s == order[0]


def test_only_one_claim_is_in_progress_at_a_time_unless_runs_are_short() -> None:
    scheduler = BatchScheduler(WindowLimits(8, 1000, 0.005))
    scheduler.reserve(8)
    assert scheduler.plan_claim(0.0, None) == Wait(math.inf)
    scheduler.release(8)
    scheduler.add(0.0, [0.0] * 8, [10] * 8, 0.001)
    scheduler.take(0.0)
    scheduler.end_run(0.010)
    plans = []
    for _ in range(BATCHES_AHEAD + 1):
        plans.append(scheduler.plan_claim(0.010, None))
        scheduler.reserve(8)
    assert plans == [ClaimUpTo(8, 8)] * BATCHES_AHEAD + [Wait(math.inf)]


def test_a_token_limited_model_claims_only_slightly_more_than_one_batch() -> None:
    scheduler = BatchScheduler(WindowLimits(64, 1000, 0.005))
    scheduler.add(0.0, [0.0] * 4, [250] * 4, 0.001)
    assert scheduler.take(0.0) == 4
    scheduler.end_run(1.0)
    assert scheduler.plan_claim(1.0, None) == ClaimUpTo(int(4 * TOKEN_LIMITED_CLAIM), 4)


def test_a_claim_is_delayed_while_another_model_runs() -> None:
    limits = WindowLimits(8, 1000, 0.005)
    running, other = BatchScheduler(limits), BatchScheduler(limits)
    for number in range(20):
        running.add(number, [number], [10], 0.001)
        running.take(number)
        running.end_run(number + 0.5)
    running.add(100.0, [100.0], [10], 0.001)
    running.take(100.0)
    plan = other.plan_claim(100.0, running)
    assert isinstance(plan, Wait)
    assert 100.4 < plan.until_s < 100.5
    assert isinstance(other.plan_claim(plan.until_s, running), ClaimUpTo)
    assert isinstance(other.plan_claim(100.0, None), ClaimUpTo)


def test_the_window_whose_first_request_was_claimed_first_is_chosen() -> None:
    first, second, empty = (BatchScheduler(WindowLimits(8, 1000, 0.005)) for _ in range(3))
    models = {"second": second, "empty": empty, "first": first}
    assert choose_window(models, 0.0) == Wait(math.inf)
    second.add(2.0, [0.5], [10], 0.0)
    first.add(1.0, [0.9], [10], 0.0)
    assert choose_window(models, 2.0) == ("first", Close("wait"))


def test_the_wait_for_open_windows_ends_with_the_earliest_one() -> None:
    long, short = BatchScheduler(WindowLimits(8, 1000, 0.5)), BatchScheduler(WindowLimits(8, 1000, 0.1))
    long.add(1.0, [1.0], [10], 0.0)
    short.add(1.0, [1.0], [10], 0.0)
    assert choose_window({"long": long, "short": short}, 1.0) == Wait(1.1)


def test_new_limits_apply_to_waiting_requests() -> None:
    scheduler = BatchScheduler(WindowLimits(8, 1000, 60.0))
    scheduler.add(0.0, [0.0] * 3, [10] * 3, 0.0)
    assert isinstance(scheduler.decide(0.0), Wait)
    scheduler.set_limits(WindowLimits(2, 1000, 60.0), 0.0)
    assert scheduler.decide(0.0) == Close("size")
    assert scheduler.take(0.0) == 2
