"""What each signal asks for, given those before it."""

from __future__ import annotations

import signal
from signal import SIGINT, SIGQUIT, SIGTERM

import pytest

from windrow.worker.process.stopping import AT_ONCE, GRACEFULLY, SAME_SIGNAL_S, StopSignals

SOON_S, LATER_S = SAME_SIGNAL_S / 2, SAME_SIGNAL_S * 2


@pytest.mark.parametrize(
    ("received", "levels"),
    [
        ([(0, SIGTERM)], [GRACEFULLY]),
        ([(0, SIGINT)], [GRACEFULLY]),
        ([(0, SIGQUIT)], [AT_ONCE]),
        ([(0, SIGTERM), (LATER_S, SIGTERM)], [GRACEFULLY, AT_ONCE]),
        ([(0, SIGINT), (LATER_S, SIGINT)], [GRACEFULLY, AT_ONCE]),
        # The terminal sends INT to everybody, and a supervisor then TERM; a group gets TERM beside its supervisor.
        ([(0, SIGINT), (SOON_S, SIGTERM)], [GRACEFULLY, GRACEFULLY]),
        ([(0, SIGTERM), (SOON_S, SIGTERM)], [GRACEFULLY, GRACEFULLY]),
        ([(0, SIGTERM), (SOON_S, SIGTERM), (LATER_S, SIGTERM)], [GRACEFULLY, GRACEFULLY, AT_ONCE]),
        ([(0, SIGTERM), (SOON_S, SIGQUIT)], [GRACEFULLY, AT_ONCE]),
    ],
)
def test_the_first_signal_is_graceful_and_one_more_or_quit_is_not(
    received: list[tuple[float, signal.Signals]], levels: list[int]
) -> None:
    times = iter([now_s for now_s, _ in received])
    signals = StopSignals(lambda number, frame: None, clock=lambda: next(times))
    assert [signals.level_of(number) for _, number in received] == levels
