"""Clocks of the API and the worker that are ten minutes wrong, in opposite directions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.clock import SHIFT_VARIABLE
from benchmarks.faults.clocks import shift_clocks
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults
TEN_MINUTES_S = 600.0


@pytest.mark.parametrize("api_shift_s", [TEN_MINUTES_S, -TEN_MINUTES_S])
def test_nothing_expires_early_or_late_where_clocks_are_wrong(
    api_shift_s: float, tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(shift_clocks(tmp_path, check, api_shift_s, -api_shift_s, requests=20))


def test_a_process_with_a_shifted_clock_does_read_another_time() -> None:
    code = (
        "import time; t = time.time(); m = time.monotonic()\n"
        "from benchmarks.faults.clock import shift_as_asked; shift_as_asked()\n"
        "from datetime import UTC, datetime\n"
        "shifts = time.time() - t, time.time_ns() / 1e9 - t, datetime.now(UTC).timestamp() - t, time.monotonic() - m\n"
        "print(*[round(shift / 60) for shift in shifts], isinstance(datetime.now(), datetime))"
    )
    words = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {SHIFT_VARIABLE: "-600"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert words.split() == ["-10", "-10", "-10", "0", "True"]  # minutes: an import may take seconds
