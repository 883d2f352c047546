"""The batch sizes that are captured as CUDA graphs, to which the planner rounds batches up."""

from __future__ import annotations

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import fitting_buckets, rectangle_rungs
from windrow.scheduler.tasks import TASKS

#: Maximum number of sequences of a captured batch if requests have several; larger batches run without a graph.
CAPTURED_SEQUENCES = 256


def captured_sequences(settings: ModelSettings) -> int:
    """Return the maximum number of sequences of a captured batch.

    ``max_batch_size`` counts requests, which may have several sequences.
    """
    return max(settings.max_batch_size, CAPTURED_SEQUENCES if TASKS[settings.task].reads_pairs else 0)


def captured_padded_sizes(settings: ModelSettings, max_tokens: int) -> dict[int, tuple[int, ...]]:
    """Return, for each bucket length up to ``max_tokens``, the numbers of rows of its captured batches."""
    buckets = fitting_buckets(settings.buckets, max_tokens)
    rows = rectangle_rungs(buckets, captured_sequences(settings), settings.max_batch_tokens)
    return dict(zip(buckets, rows, strict=True))
