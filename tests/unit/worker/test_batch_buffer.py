"""The batch buffer on a fake clock: when windows close, with which requests, and when the next ones are claimed."""

import pytest

from tests.support.fake_buffer import TICK_S, WINDOW_S, FakeBuffer, FakeClock
from tests.support.worker_requests import prepared_request
from windrow.scheduler.core.batch_scheduler import BatchScheduler, ClaimUpTo
from windrow.scheduler.core.window import WindowLimits
from windrow.worker.batches.batch_buffer import BatchBuffer


def test_a_window_with_enough_requests_closes_at_once() -> None:
    fake = FakeBuffer()
    fake.arrive(*"abcdefgh")
    window = fake.take()
    assert (len(window.requests), window.closed_by) == (8, "size")
    assert fake.clock.now_s < 100.0 + WINDOW_S


def test_a_window_with_enough_tokens_closes_at_once() -> None:
    fake = FakeBuffer()
    fake.arrive("a", "b", tokens=500)
    assert fake.take().closed_by == "tokens"
    assert fake.clock.now_s < 100.0 + WINDOW_S


def test_requests_are_taken_in_the_order_of_their_claims() -> None:
    fake = FakeBuffer()
    fake.arrive("a", "b", "c", since_s=99.0)
    fake.arrive("d", since_s=99.5)
    assert fake.take_ids() == ["a", "b", "c", "d"]


def test_a_window_takes_the_requests_that_fit_into_the_token_budget_and_leaves_the_others() -> None:
    fake = FakeBuffer()
    fake.arrive("a", "b", "c", tokens=400)
    assert fake.take_ids() == ["a", "b"]  # 400 + 400 = 800; one more is 1,200 > 1,000
    fake.clock.advance(WINDOW_S)
    assert fake.take_ids() == ["c"]


def test_a_request_over_the_token_budget_runs_alone() -> None:
    fake = FakeBuffer()
    fake.arrive("a", tokens=5000)
    assert fake.take_ids() == ["a"]


def test_the_first_burst_within_a_window_is_taken_together() -> None:
    fake = FakeBuffer()
    fake.arrive("a")
    for number, id in enumerate("bcd"):
        fake.clock.at(100.001 + number * 0.001, lambda id=id: fake.arrive(id))  # type: ignore[misc]
    window = fake.take()
    assert [request.id for request in window.requests] == ["a", "b", "c", "d"]
    assert window.closed_by in {"wait", "idle"}


def test_a_window_ends_at_most_max_wait_after_its_first_request_regardless_of_later_arrivals() -> None:
    fake = FakeBuffer(m=WindowLimits(1000, 100_000, WINDOW_S))
    fake.arrive("first")
    for number in range(100):
        fake.clock.at(100.0 + number * TICK_S, lambda number=number: fake.arrive(f"{number}"))  # type: ignore[misc]
    assert fake.take().closed_by == "wait"
    assert fake.clock.now_s <= 100.0 + WINDOW_S + 2 * TICK_S


def test_time_in_the_redis_queue_counts_as_waiting() -> None:
    fake = FakeBuffer()
    fake.arrive("a", since_s=100.0 - WINDOW_S)
    assert fake.take().closed_by == "wait"
    assert fake.clock.now_s == pytest.approx(100.0 + TICK_S)


def test_a_single_closed_loop_client_stops_waiting_after_a_few_requests() -> None:
    fake = FakeBuffer()
    fake.arrive("0")
    closed_by = [fake.take().closed_by]
    for number in range(1, 10):
        fake.clock.advance(0.010)
        fake.arrive_when_idle(f"{number}")  # sent after the previous result
        closed_by.append(fake.take().closed_by)
    assert closed_by[1:] == ["idle"] * 9


def test_windows_stay_open_again_when_other_clients_return() -> None:
    fake = FakeBuffer()
    fake.arrive("0")
    fake.take()
    for number in range(10):
        fake.clock.advance(0.010)
        fake.arrive_when_idle(f"alone {number}")
        fake.take()
    for number in range(10):  # three others now arrive during every run
        start_s = fake.clock.now_s
        for other in range(3):
            fake.clock.at(start_s + 0.002 * (other + 1), lambda id=f"{number} {other}": fake.arrive(id))  # type: ignore[misc]
        fake.clock.advance(0.010)
        fake.take()
    fake.clock.advance(0.010)
    fake.arrive_when_idle("first")
    fake.clock.at(fake.clock.now_s + 0.003, lambda: fake.arrive("second"))
    assert fake.take_ids() == ["first", "second"]


def test_requests_collect_while_the_device_is_busy_and_are_taken_as_soon_as_it_is_idle() -> None:
    fake = FakeBuffer()
    fake.arrive("a", since_s=99.0)
    fake.take()
    fake.clock.advance(0.001)
    fake.arrive("b")
    fake.clock.advance(0.002)
    fake.arrive("c")
    fake.clock.advance(0.010)
    assert fake.take_ids() == ["b", "c"]


def test_places_reserved_for_a_claim_are_unavailable_to_others_until_it_finishes() -> None:
    fake = FakeBuffer()
    assert fake.reserve() == 8
    assert fake.reserve() == 0
    fake.buffer.add("m", [], 8)
    fake.arrive("a", "b", "c", since_s=99.0)
    assert fake.reserve() == 5


def test_a_full_buffer_allows_no_claim_until_its_requests_are_taken() -> None:
    fake = FakeBuffer()
    fake.arrive(*"abcdefgh")
    assert fake.reserve() == 0
    fake.take()
    assert fake.reserve() == 8


def test_at_most_one_and_a_half_batches_are_claimed_if_tokens_fill_a_batch_first() -> None:
    fake = FakeBuffer()
    assert fake.reserve() == 8
    fake.buffer.add("m", [], 8)
    fake.arrive("a", "b", "c", tokens=400)
    assert fake.take_ids() == ["a", "b"]
    fake.clock.advance(1.0)  # runs are not short
    assert fake.take_ids() == ["c"]
    fake.clock.advance(1.0)
    assert fake.reserve(timeout_s=1.0) == 4  # 1.5 times 1,000 tokens, at 400 each


def test_the_number_of_requests_that_fill_a_batch_follows_from_the_last_window() -> None:
    fake = FakeBuffer()
    assert fake.buffer.reserve("m", 0) == ClaimUpTo(8, fills_batch=8)
    fake.buffer.add("m", [], 8)
    fake.arrive("a", "b", "c", tokens=400)
    fake.take()
    assert fake.buffer.reserve("m", 0) == ClaimUpTo(3, fills_batch=2)  # twice 400 of 1,000 tokens


def test_during_short_runs_a_second_claim_may_start_before_the_first_finishes() -> None:
    fake = FakeBuffer()
    for _ in range(2):
        fake.arrive(*"abcdefgh")
        fake.take()
    assert [fake.reserve() for _ in range(3)] == [8, 8, 0]
    fake.buffer.add("m", [], 8)
    assert fake.reserve() == 8


def test_during_a_long_run_the_next_requests_are_claimed_shortly_before_its_end() -> None:
    fake = FakeBuffer()
    for _ in range(20):
        fake.arrive(*"abcdefgh")
        fake.take()
        fake.clock.advance(0.1)
    fake.arrive(*"abcdefgh")
    fake.take()
    assert fake.reserve() == 0
    fake.clock.advance(0.08)
    assert fake.reserve() == 0
    fake.clock.advance(0.018)
    assert fake.reserve() == 8


def test_of_two_closing_windows_the_one_claimed_first_runs_first() -> None:
    limits = WindowLimits(8, 1000, WINDOW_S)
    fake = FakeBuffer(one=limits, two=limits)
    fake.arrive("a", model="one", since_s=99.0)
    fake.arrive("b", model="two", since_s=98.0)
    assert [fake.take().model, fake.take().model] == ["one", "two"]


def test_a_model_with_an_old_backlog_does_not_delay_another_model() -> None:
    limits = WindowLimits(2, 1000, WINDOW_S)
    fake = FakeBuffer(backlog=limits, fresh=limits)
    fake.arrive("a", "b", model="backlog", since_s=1.0)
    fake.arrive("c", model="fresh")
    taken = []
    for _ in range(3):
        taken.append(fake.take().model)
        fake.clock.advance(0.01)
        fake.arrive("a", "b", model="backlog", since_s=1.0)
    assert taken[:2] == ["backlog", "fresh"]


def test_requests_are_ordered_by_claim_time_even_if_prepared_later() -> None:
    buffer = BatchBuffer({"m": BatchScheduler(WindowLimits(8, 1000, WINDOW_S))}, clock=FakeClock())
    for ids, claimed_s in (("cd", 2.0), ("ab", 1.0), ("e", 3.0)):
        buffer.add("m", [prepared_request(id, 1, claimed_s=claimed_s) for id in ids], 0)
    window = buffer.take()
    assert window is not None
    assert [request.id for request in window.requests] == list("abcde")


def test_a_closed_window_does_not_wait_for_an_open_one_of_another_model() -> None:
    fake = FakeBuffer(patient=WindowLimits(8, 1000, 60.0), quick=WindowLimits(8, 1000, 0.0))
    fake.arrive("a", model="patient")
    fake.arrive("b", model="quick")
    assert fake.take().model == "quick"


def test_a_window_of_zero_seconds_never_waits() -> None:
    fake = FakeBuffer(m=WindowLimits(8, 1000, 0.0))
    for id in "abc":
        fake.arrive(id)
        assert fake.take_ids() == [id]
