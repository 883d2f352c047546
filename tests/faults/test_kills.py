"""Workers and Redis killed by SIGKILL while requests are on their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.barriers import BARRIERS
from benchmarks.faults.kills import VICTIMS, kill_workers
from benchmarks.faults.redis_kills import cut_power, kill_redis
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults
#: Leases of 2 s and all that a busy machine may add; how long it took is a figure of the long form.
RECLAIMED_S = 30.0


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_a_killed_worker_held_is_answered_once_by_others(
    victim: str, tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = kill_workers(tmp_path, check, victim, requests=300, workers=2)
    holds(report)
    figures = {one["name"]: one["value"] for one in report.figures}
    assert figures["accepted"] == 300
    assert sum(name.startswith("reclaimed, killed") for name in figures) == len(BARRIERS)
    assert figures["reclaimed, the longest"] < RECLAIMED_S
    assert figures["redelivered"] > 0


def test_a_redis_that_syncs_always_and_is_killed_loses_nothing_that_it_acknowledged(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = kill_redis(tmp_path, check, kills=5, appendfsync="always")
    holds(report)
    assert {one["name"]: one["value"] for one in report.figures}["accepted"] > 100


def test_a_redis_that_syncs_every_second_loses_no_more_than_what_was_not_synced(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = cut_power(tmp_path, check, cuts=1)
    holds(report)
    figures = {one["name"]: one["value"] for one in report.figures}
    assert figures["acknowledged and lost, the most in one"] > 0
