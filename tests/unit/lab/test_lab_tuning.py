"""Timing of forward passes: captured sizes only, within a time limit."""

from collections.abc import Mapping, Sequence
from typing import Any

from windrow.lab.tune.passes import time_passes
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits
from windrow.worker.engines.base import EngineInfo, Prepared


class RecordingEngine:
    """An engine that records the tokens of each forward pass."""

    def __init__(self) -> None:
        self.info = EngineInfo("recording", "embed", "packed", None, "cuda", "none", 512, is_captured=True)
        self.busy_s = 0.0
        self.tokens: list[int] = []

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        return [Prepared(tokens, None) for tokens in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> int:
        self.tokens.append(batch.tokens)
        return len(prepared)

    def collect(self, handle: int) -> list[Outcome]:
        return [Done({})] * handle


PREPARED = [Prepared(5 + number, None) for number in range(40)]


def test_passes_are_timed_at_captured_sizes() -> None:
    engine, limits = RecordingEngine(), BatchLimits(8, 1024, rungs=(64, 128, 256, 512, 1024))
    timings = time_passes(engine, PREPARED, "packed", limits, 60.0, lambda text: None)
    assert set(engine.tokens) <= {64, 128, 256, 512}
    assert {timed.tokens for timed in timings.passes} <= {64, 128, 256, 512}
    assert [point.batch_size for point in timings.curve] == [1, 2, 4, 8]
    assert not timings.is_cut


def test_if_time_runs_out_only_the_smallest_batches_are_timed_and_the_result_is_marked_as_cut() -> None:
    timings = time_passes(RecordingEngine(), PREPARED, "packed", BatchLimits(8, 1024), 0.0, lambda text: None)
    assert [point.batch_size for point in timings.curve] == [1]
    assert timings.is_cut
