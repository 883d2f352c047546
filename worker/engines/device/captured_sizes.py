"""The sizes in which passes are captured on CUDA, which the planner rounds them up to."""

from __future__ import annotations

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import fitting_buckets, rectangle_rungs
from windrow.scheduler.tasks import TASKS

#: Sequences that captured passes have room for where a request has several; passes of more are not captured.
CAPTURED_SEQUENCES = 256


def captured_sequences(settings: ModelSettings) -> int:
    """How many sequences a captured pass has room for: ``max_batch_size`` counts requests, which may have several."""
    return max(settings.max_batch_size, CAPTURED_SEQUENCES if TASKS[settings.task].reads_pairs else 0)


def captured_padded_sizes(settings: ModelSettings, longest: int) -> dict[int, tuple[int, ...]]:
    """For texts of at most ``longest`` tokens, length of a bucket -> the numbers of rows it is captured with."""
    buckets = fitting_buckets(settings.buckets, longest)
    rungs = rectangle_rungs(buckets, captured_sequences(settings), settings.max_batch_tokens)
    return dict(zip(buckets, rungs, strict=True))
