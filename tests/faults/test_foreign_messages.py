"""Things on the queues that nobody of ours put there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.strangers import put_pickles, share_with_newer
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults


def test_a_pickle_on_any_queue_runs_nothing_and_the_worker_goes_on(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(put_pickles(tmp_path, check))


def test_records_of_a_newer_release_are_left_alone_and_hold_nobody_up(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(share_with_newer(tmp_path, check, foreign=1500, requests=40))
