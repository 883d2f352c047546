"""Progress that a pool process reports to its parent, measured with a fake clock."""

from __future__ import annotations

import os

from windrow.worker.process.progress import Progress, ProgressReading, clear_slot, read_slot

SLOT = 1000


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def ticking(progress: Progress, clock: Clock, seconds: float) -> None:
    """Let ``seconds`` pass, with a tick every half second."""
    for _ in range(round(seconds * 2)):
        clock.now_s += 0.5
        progress.tick()


def test_a_waiting_loop_is_not_busy() -> None:
    clock = Clock()
    progress = Progress(stall_s=5.0, clock=clock)
    progress.stage()
    ticking(progress, clock, 100)
    assert progress.busy_s == 0
    assert not progress.is_stalled


def test_a_stage_is_busy_from_its_start_to_its_end() -> None:
    clock = Clock()
    progress = Progress(stall_s=5.0, clock=clock)
    stage = progress.stage()
    ticking(progress, clock, 3)
    with stage:
        ticking(progress, clock, 5)
        assert progress.busy_s == 5
        assert not progress.is_stalled
        ticking(progress, clock, 1)
        assert progress.is_stalled
    assert progress.busy_s == 0


def test_busy_time_is_that_of_the_longest_running_stage() -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    first, second = progress.stage(), progress.stage()
    with first:
        ticking(progress, clock, 4)
        with second:
            ticking(progress, clock, 2)
            assert progress.busy_s == 6


def test_time_during_which_the_process_was_suspended_does_not_count() -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    with progress.stage():
        clock.now_s += 1000
        progress.tick()
        assert progress.busy_s <= 1


def test_steps_are_timed_while_they_are_computed_and_not_while_the_caller_uses_them() -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    busy_times = []

    def steps() -> list[float]:
        ticking(progress, clock, 3)
        busy_times.append(progress.busy_s)
        return [1.0]

    stage = progress.stage()
    for _ in stage.timed(step for _ in range(2) for step in steps()):
        ticking(progress, clock, 7)
        busy_times.append(progress.busy_s)
    assert busy_times == [3, 0, 3, 0]


def test_the_parent_reads_the_progress_of_a_forked_process() -> None:
    clear_slot(SLOT)
    child = os.fork()
    if child == 0:
        Progress(SLOT).tick(held=4)
        os._exit(0)
    os.waitpid(child, 0)
    assert read_slot(SLOT) == ProgressReading(child, 1, 0, 4)
    clear_slot(SLOT)
    assert read_slot(SLOT) == ProgressReading(0, 0, 0, 0)
