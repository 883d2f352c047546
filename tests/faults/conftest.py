"""Short runs of the scenarios of ``python -m benchmarks faults``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.faults.report import Report
from windrow.bench.programs import Check

Hold = Callable[[Report], None]


@pytest.fixture
def check() -> Check:
    """Do nothing: Ctrl-C ends pytest by itself, and the scenario's ``with`` blocks clean up."""
    return lambda: None


@pytest.fixture
def holds() -> Hold:
    """Fail with all figures if a scenario reports a broken promise."""

    def assert_nothing_broken(report: Report) -> None:
        lines = (f"  {figure['name']}: {figure['value']:g} {figure['unit']}" for figure in report.figures)
        figures = "\n".join(lines)
        print(f"{report.scenario}\n{figures}")
        assert report.broken == [], figures

    return assert_nothing_broken
