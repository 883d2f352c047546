"""What a process shows of its life, by a clock of the test's own."""

from __future__ import annotations

import os

from windrow.worker.process.progress import Progress, ProgressReading, clear_slot, read_slot

SLOT = 1000


class Clock:
    """Says what it is set to."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def ticking(vitals: Progress, clock: Clock, seconds: float) -> None:
    """Let ``seconds`` pass, with a tick every half second."""
    for _ in range(round(seconds * 2)):
        clock.now_s += 0.5
        vitals.tick()


def test_a_loop_that_waits_is_not_busy() -> None:
    clock = Clock()
    vitals = Progress(stall_s=5.0, clock=clock)
    vitals.stage()
    ticking(vitals, clock, 100)
    assert vitals.busy_s == 0
    assert not vitals.is_stalled


def test_a_stage_is_busy_from_when_it_began_until_it_ended() -> None:
    clock = Clock()
    vitals = Progress(stall_s=5.0, clock=clock)
    stage = vitals.stage()
    ticking(vitals, clock, 3)
    with stage:
        ticking(vitals, clock, 5)
        assert vitals.busy_s == 5
        assert not vitals.is_stalled
        ticking(vitals, clock, 1)
        assert vitals.is_stalled
    assert vitals.busy_s == 0


def test_the_longest_of_several_stages_counts() -> None:
    clock = Clock()
    vitals = Progress(clock=clock)
    first, second = vitals.stage(), vitals.stage()
    with first:
        ticking(vitals, clock, 4)
        with second:
            ticking(vitals, clock, 2)
            assert vitals.busy_s == 6


def test_time_in_which_the_process_was_suspended_does_not_count() -> None:
    clock = Clock()
    vitals = Progress(clock=clock)
    with vitals.stage():
        clock.now_s += 1000
        vitals.tick()
        assert vitals.busy_s <= 1


def test_steps_are_timed_while_they_are_made_and_not_while_the_caller_has_them() -> None:
    clock = Clock()
    vitals = Progress(clock=clock)
    seen = []

    def steps() -> list[float]:
        ticking(vitals, clock, 3)
        seen.append(vitals.busy_s)
        return [1.0]

    stage = vitals.stage()
    for _ in stage.timed(made for _ in range(2) for made in steps()):
        ticking(vitals, clock, 7)
        seen.append(vitals.busy_s)
    assert seen == [3, 0, 3, 0]


def test_the_parent_reads_what_a_forked_process_shows() -> None:
    clear_slot(SLOT)
    child = os.fork()
    if child == 0:
        Progress(SLOT).tick(held=4)
        os._exit(0)
    os.waitpid(child, 0)
    assert read_slot(SLOT) == ProgressReading(child, 1, 0, 4)
    clear_slot(SLOT)
    assert read_slot(SLOT) == ProgressReading(0, 0, 0, 0)
