"""When the parent kills a pool process: readings and times made up by the test."""

from __future__ import annotations

from collections.abc import Callable

from windrow.worker.celery.stall_watch import LEAVE_S, TELL_S, Stall, Watch
from windrow.worker.process.progress import ProgressReading
from windrow.worker.process.stopping import AT_ONCE, GRACEFULLY

STALL_S = 10.0


def looks(
    showing: Callable[[int], ProgressReading], seconds: int, watch: Watch | None = None, stop_level: int = 0
) -> list[Stall]:
    """Everything found in so many looks, one a second; ``showing`` gives the reading of each."""
    watch = watch or Watch(STALL_S)
    return [stall for now in range(seconds) for stall in watch.look(now, [showing(now)], stop_level)]


def test_a_process_that_ticks_is_left_in_peace() -> None:
    assert looks(lambda now: ProgressReading(7, now + 1, 0, 0), 100) == []


def test_a_process_without_a_tick_is_killed_after_the_stall_time_and_not_before() -> None:
    assert looks(lambda now: ProgressReading(7, 5, 0, 0), 11) == []  # 10 s after the first look
    (found,) = looks(lambda now: ProgressReading(7, 5, 0, 0), 12)
    assert (found.slot, found.pid) == (0, 7)
    assert "no sign of life for 11 s" in found.reason


def test_a_process_that_loads_its_models_is_left_in_peace() -> None:
    assert looks(lambda now: ProgressReading(7, 0, 0, 0), 100) == []


def test_a_new_process_in_the_same_slot_has_its_own_time() -> None:
    assert looks(lambda now: ProgressReading(7 if now < 8 else 8, 5, 0, 0), 16) == []


def test_a_pass_is_killed_only_after_it_had_time_to_be_told_of() -> None:
    assert looks(lambda now: ProgressReading(7, now + 1, STALL_S + TELL_S, 1), 5) == []
    (found,) = looks(lambda now: ProgressReading(7, now + 1, STALL_S + TELL_S + 1, 1), 1)
    assert "at one pass for 14 s" in found.reason


def test_time_in_which_the_parent_itself_was_suspended_does_not_count() -> None:
    watch = Watch(STALL_S)
    watch.look(0.0, [ProgressReading(7, 5, 0, 0)])
    assert watch.look(1000.0, [ProgressReading(7, 5, 0, 0)]) == []


def test_a_process_that_is_asked_to_leave_at_once_and_does_not_is_killed() -> None:
    def ticking(now: int) -> ProgressReading:
        return ProgressReading(7, now + 1, 0, 0)

    assert looks(ticking, 100, stop_level=GRACEFULLY) == []
    seconds = int(LEAVE_S) + 1
    assert looks(ticking, seconds, stop_level=AT_ONCE) == []
    assert [found.pid for found in looks(ticking, seconds + 1, stop_level=AT_ONCE)] == [7]


def test_an_empty_slot_is_never_killed() -> None:
    assert looks(lambda now: ProgressReading(0, 0, 0, 0), 100, stop_level=AT_ONCE) == []
