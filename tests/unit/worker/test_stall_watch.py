"""The parent process kills stalled pool processes; the test supplies readings and times."""

from __future__ import annotations

from collections.abc import Callable

from windrow.worker.celery.stall_watch import REPORT_GRACE_S, STOP_GRACE_S, Stall, StallDetector
from windrow.worker.process.progress import ProgressReading
from windrow.worker.process.stopping import GRACEFULLY, IMMEDIATELY

STALL_S = 10.0


def check_every_second(
    reading_at: Callable[[int], ProgressReading],
    seconds: int,
    detector: StallDetector | None = None,
    stop_level: int = 0,
) -> list[Stall]:
    """Return everything found by one check per second; ``reading_at`` gives the reading of each second."""
    detector = detector or StallDetector(STALL_S)
    return [stall for now in range(seconds) for stall in detector.check(now, [reading_at(now)], stop_level)]


def test_a_process_that_ticks_is_not_killed() -> None:
    assert check_every_second(lambda now: ProgressReading(7, now + 1, 0, 0), 100) == []


def test_a_process_without_ticks_is_killed_only_after_the_stall_time() -> None:
    assert check_every_second(lambda now: ProgressReading(7, 5, 0, 0), 11) == []  # 10 s after the first check
    (found,) = check_every_second(lambda now: ProgressReading(7, 5, 0, 0), 12)
    assert (found.slot, found.pid) == (0, 7)
    assert "no progress for 11 s" in found.reason


def test_a_process_that_is_loading_its_models_is_not_killed() -> None:
    assert check_every_second(lambda now: ProgressReading(7, 0, 0, 0), 100) == []


def test_the_stall_time_restarts_for_a_new_process_in_the_same_slot() -> None:
    assert check_every_second(lambda now: ProgressReading(7 if now < 8 else 8, 5, 0, 0), 16) == []


def test_a_long_batch_is_killed_only_after_the_process_had_time_to_report_it() -> None:
    assert check_every_second(lambda now: ProgressReading(7, now + 1, STALL_S + REPORT_GRACE_S, 1), 5) == []
    (found,) = check_every_second(lambda now: ProgressReading(7, now + 1, STALL_S + REPORT_GRACE_S + 1, 1), 1)
    assert "running one batch for 14 s" in found.reason


def test_time_during_which_the_parent_was_suspended_does_not_count() -> None:
    detector = StallDetector(STALL_S)
    detector.check(0.0, [ProgressReading(7, 5, 0, 0)])
    assert detector.check(1000.0, [ProgressReading(7, 5, 0, 0)]) == []


def test_a_process_that_ignores_an_immediate_stop_is_killed() -> None:
    def ticking(now: int) -> ProgressReading:
        return ProgressReading(7, now + 1, 0, 0)

    assert check_every_second(ticking, 100, stop_level=GRACEFULLY) == []
    seconds = int(STOP_GRACE_S) + 1
    assert check_every_second(ticking, seconds, stop_level=IMMEDIATELY) == []
    assert [found.pid for found in check_every_second(ticking, seconds + 1, stop_level=IMMEDIATELY)] == [7]


def test_an_empty_slot_is_never_killed() -> None:
    assert check_every_second(lambda now: ProgressReading(0, 0, 0, 0), 100, stop_level=IMMEDIATELY) == []
