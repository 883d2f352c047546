"""Overload, fairness between tenants and priorities, and rolling restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.fairness import flood_of_high, order_of_service
from benchmarks.faults.overload import overload
from benchmarks.faults.rolling import restart_all
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults


def test_overload_keeps_the_queue_within_its_limit_and_bounds_the_latency(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    # A quarter of the benchmark's rate, which two busy cores can exceed three times.
    holds(overload(tmp_path, check, seconds=6.0, pass_s=0.4, max_depth=40))


def test_every_second_claimed_request_is_the_quiet_tenants(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(order_of_service(tmp_path, check, noisy=1000, quiet=20))


def test_every_low_request_finishes_during_an_overload_of_high_requests(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(flood_of_high(tmp_path, check, seconds=4.0, low=10))


def test_rolling_restarts_under_load_cause_no_client_error(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(restart_all(tmp_path, check, rounds=1, clients=2))
