"""The queue's ``ready`` set on a virtual clock: weighted fair queueing, and suspects that are claimed alone."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.fairness import finish_tag
from windrow.scheduler.core.retry import SUSPECT_AFTER


class ReadySet:
    """Requests, by their position in the workload, that wait to be claimed."""

    def __init__(self, workload: Workload) -> None:
        self._costs, self._flow = workload.tokens, workload.flow
        self._weights = [flow.weight for flow in workload.flows]
        self._last_tags: list[float | None] = [None] * len(workload.flows)
        self._virtual_time = 0.0
        self._heap: list[tuple[float, int]] = []
        #: The tag of each request that was submitted; one that comes back keeps its place.
        self._tags: list[float] = [0.0] * len(workload)
        #: Batches that died with each of the few requests to which that happened.
        self.deaths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def submit(self, request: int) -> None:
        """Take a request in, at the place that its flow's share gives it."""
        flow = self._flow[request] if self._flow else 0
        tag = finish_tag(self._virtual_time, self._last_tags[flow], self._costs[request], self._weights[flow])
        self._last_tags[flow] = self._tags[request] = tag
        heapq.heappush(self._heap, (tag, request))

    def give_back(self, requests: Sequence[int]) -> None:
        """Take back what was claimed, in its old place."""
        for request in requests:
            heapq.heappush(self._heap, (self._tags[request], request))

    def is_suspect(self, request: int) -> bool:
        """Whether it has to run alone."""
        return bool(self.deaths) and self.deaths.get(request, 0) >= SUSPECT_AFTER

    def claim(self, count: int, alone: bool) -> list[int]:
        """The next ``count`` requests in fair order, up to the first suspect; that by itself if ``alone``."""
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
