"""SIGKILL for workers and Redis while requests are in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.kills import VICTIMS, kill_workers
from benchmarks.faults.redis_kills import cut_power, kill_redis
from benchmarks.faults.stop_points import STOP_POINTS
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults
#: Leases of 2 s, with room for a busy machine; the benchmark has a tighter target.
RECLAIMED_S = 30.0


@pytest.mark.parametrize("victim", VICTIMS)
def test_requests_claimed_by_a_killed_worker_are_answered_once_by_others(
    victim: str, tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = kill_workers(tmp_path, check, victim, requests=300, workers=2)
    holds(report)
    figures = {figure["name"]: figure["value"] for figure in report.figures}
    assert figures["accepted"] == 300
    assert sum(name.startswith("reclaimed, killed") for name in figures) == len(STOP_POINTS)
    assert figures["reclaimed, the longest"] < RECLAIMED_S
    assert figures["redelivered"] > 0


def test_a_killed_redis_with_appendfsync_always_loses_no_acknowledged_request(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = kill_redis(tmp_path, check, kills=5, appendfsync="always")
    holds(report)
    assert {figure["name"]: figure["value"] for figure in report.figures}["accepted"] > 100


def test_a_power_cut_with_appendfsync_everysec_loses_only_unsynced_requests(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = cut_power(tmp_path, check, cuts=1)
    holds(report)
    figures = {figure["name"]: figure["value"] for figure in report.figures}
    assert figures["acknowledged and lost, the most in one"] > 0
