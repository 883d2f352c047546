"""The stop level that each signal requests, given the signals before it."""

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
        # A terminal sends SIGINT to the group, then a supervisor SIGTERM; a group and its parent may both get SIGTERM.
        ([(0, SIGINT), (SOON_S, SIGTERM)], [GRACEFULLY, GRACEFULLY]),
        ([(0, SIGTERM), (SOON_S, SIGTERM)], [GRACEFULLY, GRACEFULLY]),
        ([(0, SIGTERM), (SOON_S, SIGTERM), (LATER_S, SIGTERM)], [GRACEFULLY, GRACEFULLY, IMMEDIATELY]),
        ([(0, SIGTERM), (SOON_S, SIGQUIT)], [GRACEFULLY, IMMEDIATELY]),
    ],
)
def test_the_first_signal_stops_gracefully_and_a_second_one_or_sigquit_immediately(
    received: list[tuple[float, signal.Signals]], levels: list[int]
) -> None:
    times = iter([now_s for now_s, _ in received])
    signals = StopSignals(lambda number, frame: None, clock=lambda: next(times))
    assert [signals.level_of(number) for _, number in received] == levels
