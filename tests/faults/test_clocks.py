"""Clock skew: the clocks of the API and the worker are ten minutes wrong in opposite directions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.clock import SHIFT_VARIABLE
from benchmarks.faults.clock_skew import shift_clocks
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults
TEN_MINUTES_S = 600.0


@pytest.mark.parametrize("api_shift_s", [TEN_MINUTES_S, -TEN_MINUTES_S])
def test_no_request_expires_early_or_late_if_clocks_are_wrong(
    api_shift_s: float, tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(shift_clocks(tmp_path, check, api_shift_s, -api_shift_s, requests=20))


def test_every_function_for_the_time_of_day_returns_the_shifted_time() -> None:
    code = (
        "import time; t = time.time(); m = time.monotonic()\n"
        "from benchmarks.faults.clock import shift_from_environ; shift_from_environ()\n"
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
    assert words.split() == ["-10", "-10", "-10", "0", "True"]  # minutes, since an import may take seconds
