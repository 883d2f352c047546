"""Minimal simulations of static and continuous batching of text generation.

A step generates one token for every request of the batch and takes ``time_per_token`` seconds for any batch size,
because decoding is bound by reading the weights. Prefill takes no time here; `windrow.lab.simulate.generation`
includes it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace

from windrow.lab.primitives.amounts import count, seconds
from windrow.lab.primitives.requests import Request, check_request


def static_batch_simulation(
    requests: Iterable[Request], batch_size: int, time_per_token: float
) -> tuple[list[Request], float, float]:
    """Simulate batches in order of arrival that start when they are full and end with their longest request.

    The last batch may be smaller; it starts when its last request arrives. Returns copies of the requests with their
    times, in order of arrival; the end of the last request in seconds; and the throughput until then in tokens per
    second. Raises `ValueError` if the batch size is not a whole number of at least 1, a length is not a whole number of
    at least 0, or a time is negative or not finite.
    """
    batch_size = count("batch_size", batch_size, 1)
    queue, time_per_token = _queue(requests), seconds("time_per_token", time_per_token)
    now_s = 0.0
    completed: list[Request] = []
    for first in range(0, len(queue), batch_size):
        batch = queue[first : first + batch_size]
        start_s = max(now_s, batch[-1].arrival_time)
        now_s = start_s + max(request.output_length for request in batch) * time_per_token
        completed += [replace(request, start_time=start_s, end_time=now_s) for request in batch]
    return completed, now_s, _tokens_per_s(completed, now_s)


def continuous_batch_simulation(
    requests: Iterable[Request], max_batch_size: int, time_per_token: float
) -> tuple[list[Request], float, float]:
    """Simulate a batch that each request joins when a slot is free and leaves with its own last token.

    This is iteration-level scheduling as in Orca (Yu et al., OSDI 2022). Return value and errors are those of
    `static_batch_simulation`. No request ends later than there, and one that is shorter than the longest request of its
    static batch ends earlier.
    """
    max_batch_size = count("max_batch_size", max_batch_size, 1)
    queue, time_per_token = _queue(requests), seconds("time_per_token", time_per_token)
    #: Heap of the times at which the slots become free; no more slots than requests are needed.
    free_s = [0.0] * min(max_batch_size, len(queue))
    completed: list[Request] = []
    for request in queue:
        start_s = max(request.arrival_time, free_s[0])
        end_s = start_s + request.output_length * time_per_token
        heapq.heapreplace(free_s, end_s)
        completed.append(replace(request, start_time=start_s, end_time=end_s))
    total_s = max(free_s, default=0.0)
    return completed, total_s, _tokens_per_s(completed, total_s)


def _queue(requests: Iterable[Request]) -> list[Request]:
    queue = list(requests)
    for request in queue:
        check_request(request)
    return sorted(queue, key=lambda request: request.arrival_time)


def _tokens_per_s(completed: Sequence[Request], total_s: float) -> float:
    return sum(request.output_length for request in completed) / total_s if total_s else 0.0
