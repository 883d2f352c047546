"""The short form of `windrow bench faults`: the same scenarios, with numbers that fit into a test run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.faults.report import Report
from windrow.bench.programs import Check

Hold = Callable[[Report], None]


@pytest.fixture
def check() -> Check:
    """Nothing: Ctrl-C ends pytest by itself, and the scenario's ``with`` blocks clean up."""
    return lambda: None


@pytest.fixture
def holds() -> Hold:
    """Fails with everything that a scenario found where a promise was broken."""

    def assert_nothing_broken(report: Report) -> None:
        seen = "\n".join(f"  {one['name']}: {one['value']:g} {one['unit']}" for one in report.figures)
        print(f"{report.scenario}\n{seen}")
        assert report.broken == [], seen

    return assert_nothing_broken
