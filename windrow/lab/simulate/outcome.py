"""The devices of a simulated run and their failures, and the result of the run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from windrow.lab.simulate.batch_runner import SimulatedBatch
from windrow.lab.simulate.workload import Workload


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker dies with everything it holds; its successor is ready ``down_s`` later."""

    at_s: float
    device: int
    down_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices and their failures. Raises `ValueError` for no device and for a failure that is impossible."""

    devices: int = 1
    failures: tuple[Failure, ...] = ()
    #: Time from a worker's death until its requests are requeued.
    lease_s: float = 15.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"{self.devices} devices; takes 1 or more")
        for failure in self.failures:
            if not (0 <= failure.device < self.devices and 0 <= failure.at_s < math.inf and failure.down_s >= 0):
                raise ValueError(
                    f"a failure of device {failure.device} at {failure.at_s} s for {failure.down_s} s: takes devices "
                    f"from 0 to {self.devices - 1} and times of 0 s or more"
                )


ONE_DEVICE = Fleet()


class GiveUp(NamedTuple):
    """End the run as hopeless when more than ``share`` of all requests took longer than ``slo_s``."""

    slo_s: float
    share: float
    #: Measure the time to the first token instead of the whole latency.
    by_first: bool = False


@dataclass(slots=True)
class Outcome:
    """The result of a run: one column entry for each request, in the workload's order, and what the devices did."""

    workload: Workload
    devices: int
    #: When the batch that answered the request began and ended; NaN for a request without an answer.
    start_s: list[float]
    end_s: list[float]
    #: When the first token was ready; empty unless the workload generates text.
    first_s: list[float] = field(default_factory=list)
    batches: list[SimulatedBatch] = field(default_factory=list)
    closed_by: Counter[str] = field(default_factory=Counter)
    #: Requests that failed after their last attempt.
    failed: int = 0
    redelivered: int = 0
    #: Device time of batches that a death interrupted.
    lost_s: float = 0.0
    #: Whether `GiveUp` ended the run.
    is_hopeless: bool = False
