"""The batches that run on one simulated device, and when the next one may begin.

This is what `windrow.worker.batches.batch_loop` and `windrow.worker.engines.device.cores` do with threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from windrow.lab.costs.cost import PassCost
from windrow.lab.costs.cpu_cores import CpuCores
from windrow.scheduler.core.planning import Batch

#: Batches that wait behind the one that is being finished, as in the worker.
STARTED_AHEAD = 1


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """One forward pass on the virtual clock, in seconds."""

    start_s: float
    end_s: float
    #: The requests that finished with it.
    requests: tuple[int, ...]
    #: The number of requests that it computed for.
    size: int
    #: Computed tokens, padding included.
    tokens: int
    asked_tokens: int
    device: int


@dataclass(slots=True)
class _Started:
    """A batch that has begun."""

    start_s: float
    batch: Batch
    requests: tuple[int, ...]
    pieces_left: int
    is_cut: bool


class BatchRunner:
    """The batches that one device has begun; their results are stored in the order in which they began."""

    def __init__(self, device: int, cost: PassCost, draw: int = 0, chores_at_s: Sequence[float] = ()) -> None:
        """Requests that arrive at the ascending times ``chores_at_s`` cause chores on its cores."""
        self.device, self._cost = device, cost
        # The same factors in every run of one draw, so that runs differ only by what was changed.
        self._factors = Random(f"{device} {draw}")
        self._cores = CpuCores(cost.lanes, chores_at_s, cost.chore_s)
        self._started: deque[_Started] = deque()
        #: The number of the first batch in `_started`, counted from 0.
        self._first = 0

    @property
    def ends_s(self) -> float:
        """When the next piece ends; infinite if none runs."""
        return self._cores.ends_s

    @property
    def is_empty(self) -> bool:
        """Whether every batch has finished."""
        return not self._started

    @property
    def has_room(self) -> bool:
        """Whether another batch may begin.

        A core must be free, the previous batch must have ended unless it was split over cores, and at most
        `STARTED_AHEAD` batches may wait behind the one whose results are being stored.
        """
        if self._cores.pieces >= self._cost.lanes or len(self._started) > 1 + STARTED_AHEAD:
            return False
        last = self._started[-1] if self._started else None
        return last is None or last.is_cut or not last.pieces_left

    def begin(self, batch: Batch, window: Sequence[int], lengths: Sequence[int], now_s: float) -> None:
        """Start ``batch``, which was planned from the requests of ``window`` by their ``lengths``."""
        work_s = self._cost.pieces_s(batch, lengths)
        if spread := self._cost.spread:
            work_s = [seconds * self._factors.choice(spread) for seconds in work_s]
        requests = tuple(window[index] for index in batch.indices)
        self._cores.add(self._first + len(self._started), work_s, now_s)
        self._started.append(_Started(now_s, batch, requests, len(work_s), len(work_s) > 1))

    def end(self, now_s: float) -> list[SimulatedBatch]:
        """Complete the pieces that end now, and return the finished batches that no earlier batch holds up."""
        for number in self._cores.end(now_s):
            self._started[number - self._first].pieces_left -= 1
        finished = []
        while self._started and not self._started[0].pieces_left:
            done = self._started.popleft()
            self._first += 1
            batch, requests = done.batch, done.requests
            finished.append(
                SimulatedBatch(
                    done.start_s, now_s, requests, len(requests), batch.tokens, batch.asked_tokens, self.device
                )
            )
        return finished

    def lost(self, now_s: float) -> tuple[list[int], float]:
        """Return the requests whose results a death of the device loses, and the seconds spent on them."""
        requests = [request for started in self._started for request in started.requests]
        return requests, now_s - self._started[0].start_s if self._started else 0.0
