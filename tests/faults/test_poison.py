"""One poison request in a batch of 32."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.poison import KINDS, poison_batch
from tests.faults.conftest import Hold
from windrow.bench.programs import Check

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_31_requests_of_a_batch_with_a_poison_request_succeed(
    kind: str, tmp_path: Path, check: Check, holds: Hold
) -> None:
    report = poison_batch(tmp_path, check, kind)
    holds(report)
    assert {figure["name"]: figure["value"] for figure in report.figures}["right answers"] == 31
