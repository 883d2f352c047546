"""Network partitions between a worker and Redis, and concurrent finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.partitions import leave_half_open, pause_connection
from benchmarks.faults.races import race_finishers
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults
#: The lease of 2 s, and time for other workers to answer.
SILENT_S = 5.0


def test_late_finishes_are_refused_after_a_connection_was_silent(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(pause_connection(tmp_path, check, SILENT_S, requests=60))


def test_late_finishes_are_refused_after_connections_were_half_open(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(leave_half_open(tmp_path, check, SILENT_S, requests=60))


def test_one_of_a_hundred_concurrent_finishes_is_stored_and_has_the_last_token(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(race_finishers(tmp_path, check, finishers=100, rounds=3))
