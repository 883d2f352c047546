"""The laboratory: the decisions of `windrow.scheduler.core` on a virtual clock.

This module exports the batching primitives, which simulate requests that generate text token by token and need only the
standard library. The simulator, its workloads and the planner are in the subpackages.
"""

from windrow.lab.primitives.batching import continuous_batch_simulation, static_batch_simulation
from windrow.lab.primitives.requests import Request, calculate_batch_metrics, calculate_request_latency
from windrow.lab.primitives.sizing import (
    bucket_sequences,
    calculate_arithmetic_intensity_with_batch,
    find_optimal_batch_size,
    optimal_batch_size,
)

__all__ = [
    "Request",
    "bucket_sequences",
    "calculate_arithmetic_intensity_with_batch",
    "calculate_batch_metrics",
    "calculate_request_latency",
    "continuous_batch_simulation",
    "find_optimal_batch_size",
    "optimal_batch_size",
    "static_batch_simulation",
]
