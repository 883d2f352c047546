"""Foreign messages: pickles and records of a newer release on the queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.foreign_messages import put_pickles, share_with_newer
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults


def test_no_queued_pickle_runs_and_the_worker_continues(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(put_pickles(tmp_path, check))


def test_records_of_a_newer_release_stay_unchanged_and_block_no_request(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(share_with_newer(tmp_path, check, foreign=1500, requests=40))
