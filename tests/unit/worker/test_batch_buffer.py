"""Rows with a clock of their own: what comes while a row waits or runs, and when the row goes.

`BatchBuffer` looks at its clock whenever it decides. This clock moves on by itself and delivers what arrives
meanwhile, so that a whole story runs in one thread, as fast as the machine is.
"""

import threading
from collections.abc import Callable

import pytest

from tests.support.worker_requests import prepared_request
from windrow.scheduler.core.learned_window import FIRST_WAIT_S
from windrow.scheduler.core.window import WindowLimits
from windrow.scheduler.queue import Request
from windrow.worker.batches.batch_buffer import BatchBuffer, ClosedWindow

WINDOW_S = 0.005
TICK_S = 0.0005


class Clock:
    """Moves on by ``TICK_S`` at each look, and runs what was planned for the time it comes to."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._plans: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        self.pass_time(TICK_S)
        return self.now_s

    def at(self, time_s: float, happens: Callable[[], None]) -> None:
        self._plans.append((time_s, happens))

    def pass_time(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        for time_s, happens in sorted((plan for plan in self._plans if plan[0] <= end_s), key=lambda plan: plan[0]):
            self._plans.remove((time_s, happens))
            self.now_s = max(self.now_s, time_s)
            happens()
        self.now_s = end_s


class Field:
    """Rows, their clock, and short ways to fill and take them."""

    def __init__(self, **limits: WindowLimits) -> None:
        self.clock = Clock()
        self.rows = BatchBuffer(limits or {"m": WindowLimits(8, 1000, WINDOW_S)}, clock=self.clock)

    def arrive(self, *ids: str, model: str = "m", tokens: int = 10, since_s: float | None = None) -> None:
        """Requests arrive; ``since_s`` is when they were submitted, where that was before now."""
        now_s = self.clock.now_s
        arrived_s = now_s if since_s is None else since_s
        self.rows.add(
            model,
            [prepared_request(id, tokens, arrived_s=arrived_s, claimed_s=now_s) for id in ids],
            0,
        )

    def arrive_when_idle(self, id: str) -> None:
        """A request arrives when `BatchBuffer.take` has booked the end of the last pass and looks again."""
        self.clock.at(self.clock.now_s + 1.5 * TICK_S, lambda: self.arrive(id))

    def take(self) -> ClosedWindow:
        row = self.rows.take()
        assert row is not None
        return row

    def ids(self) -> list[str]:
        return [one.id for one in self.take().waiting]


def test_a_full_row_goes_at_once() -> None:
    field = Field()
    field.arrive(*"abcdefgh")
    row = field.take()
    assert (len(row.waiting), row.closed_by) == (8, "size")
    assert field.clock.now_s < 100.0 + WINDOW_S


def test_a_row_with_enough_tokens_goes_at_once() -> None:
    field = Field()
    field.arrive("a", "b", tokens=500)
    assert field.take().closed_by == "tokens"
    assert field.clock.now_s < 100.0 + WINDOW_S


def test_requests_leave_in_the_order_they_came() -> None:
    field = Field()
    field.arrive("a", "b", "c", since_s=99.0)
    field.arrive("d", since_s=99.5)
    assert field.ids() == ["a", "b", "c", "d"]


def test_a_row_takes_what_fits_into_the_token_budget_and_leaves_the_rest() -> None:
    field = Field()
    field.arrive("a", "b", "c", tokens=400)
    assert field.ids() == ["a", "b"]  # 400 + 400 = 800; one more is 1,200 > 1,000
    field.clock.pass_time(WINDOW_S)
    assert field.ids() == ["c"]


def test_a_request_over_the_token_budget_still_goes_alone() -> None:
    field = Field()
    field.arrive("a", tokens=5000)
    assert field.ids() == ["a"]


def test_the_first_burst_under_a_window_is_waited_for() -> None:
    field = Field()
    field.arrive("a")
    for number, id in enumerate("bcd"):
        field.clock.at(100.001 + number * 0.001, lambda id=id: field.arrive(id))  # type: ignore[misc]
    row = field.take()
    assert [one.id for one in row.waiting] == ["a", "b", "c", "d"]
    assert row.closed_by in {"wait", "idle"}


def test_a_row_goes_no_later_than_one_window_after_its_first_request_however_many_follow() -> None:
    field = Field(m=WindowLimits(1000, 100_000, WINDOW_S))
    field.arrive("first")
    for number in range(100):
        field.clock.at(100.0 + number * TICK_S, lambda number=number: field.arrive(f"{number}"))  # type: ignore[misc]
    assert field.take().closed_by == "wait"
    assert field.clock.now_s <= 100.0 + WINDOW_S + 2 * TICK_S


def test_time_in_the_redis_queue_counts_as_waiting() -> None:
    field = Field()
    field.arrive("a", since_s=100.0 - WINDOW_S)
    assert field.take().closed_by == "wait"
    assert field.clock.now_s == pytest.approx(100.0 + TICK_S)


def test_a_lone_closed_loop_client_is_soon_not_made_to_wait() -> None:
    field = Field()
    field.arrive("0")
    closed_by = [field.take().closed_by]
    for number in range(1, 10):
        field.clock.pass_time(0.010)
        field.arrive_when_idle(f"{number}")  # sent after the last answer
        closed_by.append(field.take().closed_by)
    assert closed_by[1:] == ["idle"] * 9


def test_a_lone_client_whose_friends_come_back_is_waited_with_again() -> None:
    field = Field()
    field.arrive("0")
    field.take()
    for number in range(10):
        field.clock.pass_time(0.010)
        field.arrive_when_idle(f"alone {number}")
        field.take()
    for number in range(10):  # every pass now sees three others join
        start_s = field.clock.now_s
        for other in range(3):
            field.clock.at(start_s + 0.002 * (other + 1), lambda id=f"{number} {other}": field.arrive(id))  # type: ignore[misc]
        field.clock.pass_time(0.010)
        field.take()
    field.clock.pass_time(0.010)
    field.arrive_when_idle("first")
    field.clock.at(field.clock.now_s + 0.003, lambda: field.arrive("second"))
    assert field.ids() == ["first", "second"]


def test_the_row_grows_while_the_device_is_busy_and_goes_as_soon_as_it_is_free() -> None:
    field = Field()
    field.arrive("a", since_s=99.0)
    field.take()
    field.clock.pass_time(0.001)
    field.arrive("b")
    field.clock.pass_time(0.002)
    field.arrive("c")
    field.clock.pass_time(0.010)
    assert field.ids() == ["b", "c"]


def test_what_is_reserved_is_not_given_to_another_claim_until_it_was_added() -> None:
    field = Field()
    assert field.rows.reserve("m", 0) == 8
    assert field.rows.reserve("m", 0) == 0
    field.rows.add("m", [], 8)
    field.arrive("a", "b", "c", since_s=99.0)
    assert field.rows.reserve("m", 0) == 5


def test_a_full_row_leaves_no_room_until_it_is_taken() -> None:
    field = Field()
    field.arrive(*"abcdefgh")
    assert field.rows.reserve("m", 0) == 0
    field.take()
    assert field.rows.reserve("m", 0) == 8


def test_no_more_is_claimed_than_fills_a_row_and_half_of_one_with_tokens() -> None:
    field = Field()
    assert field.rows.reserve("m", 0) == 8
    field.rows.add("m", [], 8)
    field.arrive("a", "b", "c", tokens=400)
    assert field.ids() == ["a", "b"]
    field.clock.pass_time(1.0)  # no short row
    assert field.ids() == ["c"]
    field.clock.pass_time(1.0)
    assert field.rows.reserve("m", 1) == 4  # 1.5 times 1,000 tokens, of 400 each


def test_what_is_enough_for_a_row_follows_from_the_last_one() -> None:
    field = Field()
    assert field.rows.enough("m", 8) == 8
    field.arrive("a", "b", "c", tokens=400)
    field.take()
    assert field.rows.enough("m", 8) == 2  # 2 times 400 of 1,000 tokens
    assert field.rows.enough("m", 1) == 1


def test_while_short_rows_run_a_second_claim_may_be_made_ready_beside_the_first() -> None:
    field = Field()
    for _ in range(2):
        field.arrive(*"abcdefgh")
        field.take()
    assert [field.rows.reserve("m", 0) for _ in range(3)] == [8, 8, 0]
    field.rows.add("m", [], 8)
    assert field.rows.reserve("m", 0) == 8


def test_while_a_row_runs_the_next_is_claimed_shortly_before_its_end() -> None:
    field = Field()
    for _ in range(20):
        field.arrive(*"abcdefgh")
        field.take()
        field.clock.pass_time(0.1)
    field.arrive(*"abcdefgh")
    field.take()
    assert field.rows.reserve("m", 0) == 0
    field.clock.pass_time(0.08)
    assert field.rows.reserve("m", 0) == 0
    field.clock.pass_time(0.018)
    assert field.rows.reserve("m", 0) == 8


def test_of_two_models_that_are_due_the_one_that_is_longer_in_its_row_goes_first() -> None:
    limits = WindowLimits(8, 1000, WINDOW_S)
    field = Field(one=limits, two=limits)
    field.arrive("a", model="one", since_s=99.0)
    field.arrive("b", model="two", since_s=98.0)
    assert [field.take().model, field.take().model] == ["one", "two"]


def test_a_model_with_an_old_backlog_does_not_keep_another_one_waiting() -> None:
    limits = WindowLimits(2, 1000, WINDOW_S)
    field = Field(backlog=limits, fresh=limits)
    field.arrive("a", "b", model="backlog", since_s=1.0)
    field.arrive("c", model="fresh")
    taken = []
    for _ in range(3):
        taken.append(field.take().model)
        field.clock.pass_time(0.01)
        field.arrive("a", "b", model="backlog", since_s=1.0)
    assert taken[:2] == ["backlog", "fresh"]


def test_what_was_claimed_first_is_first_although_it_was_ready_later() -> None:
    rows = BatchBuffer({"m": WindowLimits(8, 1000, WINDOW_S)}, clock=Clock())

    def claimed(*ids: str, at_s: float) -> list[Request]:
        return [prepared_request(id, 1, claimed_s=at_s) for id in ids]

    rows.add("m", claimed("c", "d", at_s=2.0), 0)
    rows.add("m", claimed("a", "b", at_s=1.0), 0)
    rows.add("m", claimed("e", at_s=3.0), 0)
    row = rows.take()
    assert row is not None
    assert [one.id for one in row.waiting] == list("abcde")


def test_a_model_that_is_due_does_not_wait_for_one_that_is_not() -> None:
    field = Field(patient=WindowLimits(8, 1000, 60.0), quick=WindowLimits(8, 1000, 0.0))
    field.arrive("a", model="patient")
    field.arrive("b", model="quick")
    assert field.take().model == "quick"


def test_without_a_window_nothing_waits() -> None:
    field = Field(m=WindowLimits(8, 1000, 0.0))
    for id in "abc":
        field.arrive(id)
        assert field.ids() == [id]


def test_after_closing_nothing_is_taken_and_what_is_left_can_be_given_back() -> None:
    field = Field(one=WindowLimits(2, 1000, 60.0), two=WindowLimits(2, 1000, 60.0), none=WindowLimits(2, 1000, 60.0))
    field.arrive("a", "b", model="one")
    field.arrive("c", model="two")
    field.rows.close()
    assert field.rows.take() is None
    field.arrive("d", model="two")  # a claim was under way
    left = field.rows.empty()
    assert {model: [one.id for one in row] for model, row in left.items()} == {
        "one": ["a", "b"],
        "two": ["c", "d"],
    }
    assert field.rows.empty() == {}
    assert field.rows.take() is None


def test_closing_ends_a_wait_for_a_window() -> None:
    rows = BatchBuffer({"m": WindowLimits(2, 1000, 60.0)})
    taken: list[ClosedWindow | None] = []
    device = threading.Thread(target=lambda: taken.append(rows.take()))
    device.start()
    rows.close()
    device.join(30)
    assert taken == [None]


def test_closing_ends_a_wait_for_room() -> None:
    field = Field()
    field.arrive(*"abcdefgh")
    field.rows.close()
    assert field.rows.reserve("m", 60.0) == 0


def test_adding_nothing_opens_no_window() -> None:
    field = Field()
    field.rows.add("m", [], 0)
    field.rows.close()
    assert field.rows.take() is None


def test_a_learnt_window_is_closed_for_requests_that_always_come_alone() -> None:
    field = Field(m=WindowLimits(8, 1000, 0.050, is_learnt=True))
    assert field.rows.wait_s("m") == FIRST_WAIT_S
    field.arrive("first")
    field.take()
    for number in range(100):
        field.clock.pass_time(0.020)
        field.arrive_when_idle(f"{number}")  # sent after the last answer
        field.take()
    assert field.rows.wait_s("m") == 0.0


def test_a_learnt_window_waits_for_company_that_always_comes() -> None:
    field = Field(m=WindowLimits(8, 1000, 0.050, is_learnt=True))
    for number in range(30):
        field.arrive(f"first {number}")
        field.clock.at(field.clock.now_s + 0.002, lambda number=number: field.arrive(f"second {number}"))  # type: ignore[misc]
        assert len(field.take().waiting) == 2
        field.clock.pass_time(0.100)
    assert 0.002 <= field.rows.wait_s("m") < FIRST_WAIT_S


def test_a_row_that_fills_goes_by_limits_that_are_set_meanwhile() -> None:
    field = Field(m=WindowLimits(8, 1000, 60.0))
    field.arrive("a", "b", "c")
    field.rows.set_limits("m", WindowLimits(2, 1000, 60.0))
    assert field.ids() == ["a", "b"]
    field.rows.set_limits("m", WindowLimits(2, 1000, 0.0))
    row = field.take()
    assert ([one.id for one in row.waiting], row.closed_by) == (["c"], "wait")
    field.rows.set_limits("m", WindowLimits(8, 1000, 0.5, is_learnt=True))
    assert field.rows.wait_s("m") == FIRST_WAIT_S
    field.rows.set_limits("m", WindowLimits(8, 1000, 0.25))
    assert field.rows.wait_s("m") == 0.25
