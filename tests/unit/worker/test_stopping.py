"""What each signal asks for, given those before it."""

from __future__ import annotations

import signal
from signal import SIGINT, SIGQUIT, SIGTERM

import pytest

from windrow.worker.process.stopping import DUPLICATE_SIGNAL_S, GRACEFULLY, IMMEDIATELY, StopSignals

SOON_S, LATER_S = DUPLICATE_SIGNAL_S / 2, DUPLICATE_SIGNAL_S * 2


@pytest.mark.parametrize(
    ("received", "levels"),
    [
        ([(0, SIGTERM)], [GRACEFULLY]),
        ([(0, SIGINT)], [GRACEFULLY]),
        ([(0, SIGQUIT)], [IMMEDIATELY]),
        ([(0, SIGTERM), (LATER_S, SIGTERM)], [GRACEFULLY, IMMEDIATELY]),
        ([(0, SIGINT), (LATER_S, SIGINT)], [GRACEFULLY, IMMEDIATELY]),
        # The terminal sends INT to everybody, and a supervisor then TERM; a group gets TERM beside its supervisor.
        ([(0, SIGINT), (SOON_S, SIGTERM)], [GRACEFULLY, GRACEFULLY]),
        ([(0, SIGTERM), (SOON_S, SIGTERM)], [GRACEFULLY, GRACEFULLY]),
        ([(0, SIGTERM), (SOON_S, SIGTERM), (LATER_S, SIGTERM)], [GRACEFULLY, GRACEFULLY, IMMEDIATELY]),
        ([(0, SIGTERM), (SOON_S, SIGQUIT)], [GRACEFULLY, IMMEDIATELY]),
    ],
)
def test_the_first_signal_is_graceful_and_one_more_or_quit_is_not(
    received: list[tuple[float, signal.Signals]], levels: list[int]
) -> None:
    times = iter([now_s for now_s, _ in received])
    signals = StopSignals(lambda number, frame: None, clock=lambda: next(times))
    assert [signals.level_of(number) for _, number in received] == levels
