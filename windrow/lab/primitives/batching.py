"""Static and continuous batching of text generation, as small as they can be told.

A step gives one token to every request of the batch and takes ``time_per_token`` seconds whatever the batch: decoding
is bound by reading the weights. The prompt costs nothing here; `windrow.lab.simulate.generation` counts it.
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
    """Batches in order of arrival, which begin when they are full and end for everyone with the longest.

    The last batch may stay smaller: it waits for arrivals only until none are left. Returns copies of the requests with
    their times, in order of arrival; when the last one ended, in seconds; and tokens a second until then. Raises
    `ValueError` for a size that is no whole number from 1, lengths that are none from 0, and times that are negative or
    not finite.
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
    """A batch that a request joins as soon as there is a place, and leaves with its own last token.

    Iteration-level scheduling as in Orca (Yu et al., OSDI 2022). Returns and raises as `static_batch_simulation`, of
    which no request ends later here; one that is shorter than the longest of its static batch ends earlier.
    """
    max_batch_size = count("max_batch_size", max_batch_size, 1)
    queue, time_per_token = _queue(requests), seconds("time_per_token", time_per_token)
    #: When each place is free again, earliest first; no more of them than can be taken.
    places = [0.0] * min(max_batch_size, len(queue))
    completed: list[Request] = []
    for request in queue:
        start_s = max(request.arrival_time, places[0])
        end_s = start_s + request.output_length * time_per_token
        heapq.heapreplace(places, end_s)
        completed.append(replace(request, start_time=start_s, end_time=end_s))
    total_s = max(places, default=0.0)
    return completed, total_s, _tokens_per_s(completed, total_s)


def _queue(requests: Iterable[Request]) -> list[Request]:
    queue = list(requests)
    for request in queue:
        check_request(request)
    return sorted(queue, key=lambda request: request.arrival_time)


def _tokens_per_s(completed: Sequence[Request], total_s: float) -> float:
    return sum(request.output_length for request in completed) / total_s if total_s else 0.0
