"""The queue's ``ready`` set in the simulator: weighted fair queueing, and suspected poison requests claimed alone."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.fairness import finish_tag
from windrow.scheduler.core.retry import SUSPECT_AFTER


class ReadySet:
    """Requests that wait to be claimed, as positions in the workload."""

    def __init__(self, workload: Workload) -> None:
        self._costs, self._flow = workload.tokens, workload.flow
        self._weights = [flow.weight for flow in workload.flows]
        self._last_tags: list[float | None] = [None] * len(workload.flows)
        self._virtual_time = 0.0
        self._heap: list[tuple[float, int]] = []
        #: The tag of each submitted request; a requeued request keeps its place.
        self._tags: list[float] = [0.0] * len(workload)
        #: Request -> number of batches that were interrupted by a death, for the few requests to which that happened.
        self.deaths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def submit(self, request: int) -> None:
        """Queue a request at the place that its flow's weight gives it."""
        flow = self._flow[request] if self._flow else 0
        tag = finish_tag(self._virtual_time, self._last_tags[flow], self._costs[request], self._weights[flow])
        self._last_tags[flow] = self._tags[request] = tag
        heapq.heappush(self._heap, (tag, request))

    def requeue(self, requests: Sequence[int]) -> None:
        """Requeue claimed requests at their old places."""
        for request in requests:
            heapq.heappush(self._heap, (self._tags[request], request))

    def is_suspect(self, request: int) -> bool:
        """Whether a request is suspected as poison and has to run alone."""
        return bool(self.deaths) and self.deaths.get(request, 0) >= SUSPECT_AFTER

    def claim(self, count: int, alone: bool) -> list[int]:
        """Return up to ``count`` requests in fair order, ending before the first suspect.

        If the first request is a suspect, it is returned by itself, and only if ``alone``.
        """
        taken: list[int] = []
        while self._heap and len(taken) < count:
            tag, request = self._heap[0]
            is_suspect = self.is_suspect(request)
            if is_suspect and (taken or not alone):
                break
            heapq.heappop(self._heap)
            taken.append(request)
            self._virtual_time = max(self._virtual_time, tag)
            if is_suspect:
                break
        return taken
