"""The laboratory: the decisions of `windrow.scheduler.core` on a virtual clock.

What is exported here are the primitives of batching, on requests that generate text token by token; they need the
standard library only. The simulator, its workloads and the planner are in the modules beside.
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
