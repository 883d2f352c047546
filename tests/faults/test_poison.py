"""One request in a row of 32 that takes its pass down with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.poison import KINDS, poison_row
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_request_among_32_costs_none_of_the_others_its_answer(
    kind: str, tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = poison_row(tmp_path, check, kind)
    holds(report)
    assert {one["name"]: one["value"] for one in report.figures}["right answers"] == 31
