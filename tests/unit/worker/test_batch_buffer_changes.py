"""A batch buffer that is closed or gets new limits, and learned windows."""

import threading

from tests.support.fake_buffer import FakeBuffer
from windrow.scheduler.core.batch_scheduler import BatchScheduler
from windrow.scheduler.core.learned_window import FIRST_WAIT_S
from windrow.scheduler.core.window import WindowLimits
from windrow.worker.batches.batch_buffer import BatchBuffer, ClosedWindow


def test_a_closed_buffer_returns_no_window_and_its_requests_can_be_released() -> None:
    fake = FakeBuffer(
        one=WindowLimits(2, 1000, 60.0), two=WindowLimits(2, 1000, 60.0), none=WindowLimits(2, 1000, 60.0)
    )
    fake.arrive("a", "b", model="one")
    fake.arrive("c", model="two")
    fake.buffer.close()
    assert fake.buffer.take() is None
    fake.arrive("d", model="two")  # from a claim that was in progress
    left = fake.buffer.empty()
    assert {model: [request.id for request in requests] for model, requests in left.items()} == {
        "one": ["a", "b"],
        "two": ["c", "d"],
    }
    assert fake.buffer.empty() == {}
    assert fake.buffer.take() is None


def test_close_ends_a_wait_for_a_window() -> None:
    buffer = BatchBuffer({"m": BatchScheduler(WindowLimits(2, 1000, 60.0))})
    taken: list[ClosedWindow | None] = []
    device = threading.Thread(target=lambda: taken.append(buffer.take()))
    device.start()
    buffer.close()
    device.join(30)
    assert taken == [None]


def test_close_ends_a_wait_for_free_places() -> None:
    fake = FakeBuffer()
    fake.arrive(*"abcdefgh")
    fake.buffer.close()
    assert fake.reserve(timeout_s=60.0) == 0


def test_an_empty_claim_opens_no_window() -> None:
    fake = FakeBuffer()
    fake.buffer.add("m", [], 0)
    fake.buffer.close()
    assert fake.buffer.take() is None


def test_a_learned_window_becomes_zero_if_requests_always_arrive_alone() -> None:
    fake = FakeBuffer(m=WindowLimits(8, 1000, 0.050, is_learned=True))
    assert fake.schedulers["m"].max_wait_s == FIRST_WAIT_S
    fake.arrive("first")
    fake.take()
    for number in range(100):
        fake.clock.advance(0.020)
        fake.arrive_when_idle(f"{number}")  # sent after the previous result
        fake.take()
    assert fake.schedulers["m"].max_wait_s == 0.0


def test_a_learned_window_waits_for_a_second_request_that_always_follows() -> None:
    fake = FakeBuffer(m=WindowLimits(8, 1000, 0.050, is_learned=True))
    for number in range(30):
        fake.arrive(f"first {number}")
        fake.clock.at(fake.clock.now_s + 0.002, lambda number=number: fake.arrive(f"second {number}"))  # type: ignore[misc]
        assert len(fake.take().requests) == 2
        fake.clock.advance(0.100)
    assert 0.002 <= fake.schedulers["m"].max_wait_s < FIRST_WAIT_S


def test_new_limits_apply_to_an_open_window() -> None:
    fake = FakeBuffer(m=WindowLimits(8, 1000, 60.0))
    fake.arrive("a", "b", "c")
    fake.buffer.set_limits("m", WindowLimits(2, 1000, 60.0))
    assert fake.take_ids() == ["a", "b"]
    fake.buffer.set_limits("m", WindowLimits(2, 1000, 0.0))
    window = fake.take()
    assert ([request.id for request in window.requests], window.closed_by) == (["c"], "wait")
    fake.buffer.set_limits("m", WindowLimits(8, 1000, 0.5, is_learned=True))
    assert fake.schedulers["m"].max_wait_s == FIRST_WAIT_S
    fake.buffer.set_limits("m", WindowLimits(8, 1000, 0.25))
    assert fake.schedulers["m"].max_wait_s == 0.25
