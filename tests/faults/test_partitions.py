"""Workers cut off from Redis by a proxy, and finishers that race."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.partitions import fall_silent, leave_half_open
from benchmarks.faults.races import race_finishers
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults
#: The lease of 2 s, and time for others to answer.
SILENT_S = 5.0


def test_a_worker_behind_a_silent_line_is_replaced_and_its_late_answers_are_refused(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(fall_silent(tmp_path, check, SILENT_S, requests=60))


def test_a_worker_with_half_open_connections_is_replaced_and_its_late_answers_are_refused(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(leave_half_open(tmp_path, check, SILENT_S, requests=60))


def test_of_a_hundred_finishers_of_one_request_one_wins_and_it_holds_the_last_token(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(race_finishers(tmp_path, check, finishers=100, rounds=3))
