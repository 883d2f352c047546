"""What one simulated device computes: its passes, and when it takes the next one.

What `windrow.worker.batches.batch_loop` and `windrow.worker.engines.device.cores` do with threads, here in virtual
time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from windrow.lab.measure.cost import PassCost
from windrow.lab.simulate.cpu_cores import CpuCores
from windrow.scheduler.core.planning import Batch

#: Passes that wait behind the one that is being finished, as in the worker.
STARTED_AHEAD = 1


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """One forward pass on the virtual clock, in seconds."""

    start_s: float
    end_s: float
    #: Those that ended with it.
    requests: tuple[int, ...]
    #: Those that it computed for.
    size: int
    #: Computed, padding included.
    tokens: int
    asked_tokens: int
    device: int


@dataclass(slots=True)
class _Started:
    """A pass that was begun."""

    start_s: float
    batch: Batch
    requests: tuple[int, ...]
    #: Pieces that are not over.
    left: int
    is_cut: bool


class BatchRunner:
    """The passes that one device has begun, whose results are stored in the order in which they were."""

    def __init__(self, device: int, cost: PassCost, draw: int = 0, chores_at_s: Sequence[float] = ()) -> None:
        """Requests that come at ``chores_at_s``, in rising order, have chores on its lanes."""
        self.device, self._cost = device, cost
        # The same factors in every run of one draw, so that runs differ by what was changed.
        self._factors = Random(f"{device} {draw}")
        self._lanes = CpuCores(cost.lanes, chores_at_s, cost.chore_s)
        self._under_way: deque[_Started] = deque()
        #: The first of those under way, counted from the first of all.
        self._first = 0

    @property
    def over_s(self) -> float:
        """When the next piece is over; infinite where none runs."""
        return self._lanes.over_s

    @property
    def is_empty(self) -> bool:
        """Whether all are over."""
        return not self._under_way

    @property
    def has_room(self) -> bool:
        """Whether another one may begin: a lane has nothing to do, what was not cut is over, and results are stored."""
        if self._lanes.pieces >= self._cost.lanes or len(self._under_way) > 1 + STARTED_AHEAD:
            return False
        last = self._under_way[-1] if self._under_way else None
        return last is None or last.is_cut or not last.left

    def begin(self, batch: Batch, row: Sequence[int], lengths: Sequence[int], now_s: float) -> None:
        """Start ``batch``, planned from the requests of ``row`` by their ``lengths``."""
        work_s = self._cost.pieces_s(batch, lengths)
        if spread := self._cost.spread:
            work_s = [seconds * self._factors.choice(spread) for seconds in work_s]
        requests = tuple(row[index] for index in batch.indices)
        self._lanes.add(self._first + len(self._under_way), work_s, now_s)
        self._under_way.append(_Started(now_s, batch, requests, len(work_s), len(work_s) > 1))

    def end(self, now_s: float) -> list[SimulatedBatch]:
        """Those that are over now, and whose results no other one holds up."""
        for number in self._lanes.end(now_s):
            self._under_way[number - self._first].left -= 1
        done = []
        while self._under_way and not self._under_way[0].left:
            one = self._under_way.popleft()
            self._first += 1
            batch, requests = one.batch, one.requests
            done.append(
                SimulatedBatch(
                    one.start_s, now_s, requests, len(requests), batch.tokens, batch.asked_tokens, self.device
                )
            )
        return done

    def lost(self, now_s: float) -> tuple[list[int], float]:
        """The device dies: whose results are lost, and the seconds spent on them."""
        requests = [request for one in self._under_way for request in one.requests]
        return requests, now_s - self._under_way[0].start_s if self._under_way else 0.0
