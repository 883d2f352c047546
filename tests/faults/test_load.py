"""More load than there is capacity, neighbours who send too much, and restarts meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.fairness import flood_of_high, order_of_service
from benchmarks.faults.overload import overload
from benchmarks.faults.rolling import restart_all
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults


def test_three_times_the_capacity_fills_the_queue_to_its_limit_and_delays_nothing_beyond_it(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    # A quarter of the rate of the long form: two busy cores can send three times that.
    holds(overload(tmp_path, check, seconds=6.0, pass_s=0.4, max_depth=40))


def test_a_quiet_tenant_gets_every_other_turn_beside_a_noisy_one(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(order_of_service(tmp_path, check, noisy=1000, quiet=20))


def test_every_low_request_ends_during_a_flood_of_high_ones(tmp_path: Path, check: Check, holds: Hold) -> None:
    holds(flood_of_high(tmp_path, check, seconds=4.0, low=10))


def test_restarts_of_the_api_and_the_workers_under_load_show_no_client_an_error(
    tmp_path: Path, check: Check, holds: Hold
) -> None:
    holds(restart_all(tmp_path, check, rounds=1, clients=2))
