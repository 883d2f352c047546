"""The load of a recorded run: arrival times (open loop), and what a run keeps of each request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from windrow.bench.programs import Check
from windrow.lab.measure.recording import Recorded
from windrow.lab.simulate.workload import PATTERNS, draw_arrivals

#: Requests sent before the recording, so that everything is loaded and the worker knows its speed.
WARM = 40
Item = TypeVar("Item")
Sent = TypeVar("Sent")


@dataclass(frozen=True, slots=True)
class Load:
    """The requests to send."""

    pattern: str
    rate_per_s: float
    requests: int
    seed: int

    def due_s(self) -> list[float]:
        """Draw the times (`time.monotonic`) at which to send the requests, from now on."""
        numbers = np.random.default_rng(self.seed)
        arrival_s = draw_arrivals(PATTERNS[self.pattern], self.rate_per_s, self.requests, numbers)
        now_s = time.monotonic()
        return [now_s + at_s for at_s in arrival_s]

    def describe(self) -> str:
        """Return one line for the log."""
        return f"{self.requests} requests, {self.pattern}, {self.rate_per_s:g} per second"

    def about(self, model: str) -> dict[str, Any]:
        """Return the load's fields of the first line of a recording."""
        return {"model": model, "pattern": self.pattern, "rate_per_s": self.rate_per_s, "seed": self.seed}


def about_device(device: str) -> dict[str, Any]:
    """Return the device's fields of the first line of a recording."""
    # A CPU worker runs each batch on all of its cores.
    return {"device": device, "lanes": len(os.sched_getaffinity(0)) if device == "cpu" else 1}


def send_when_due(
    send: Callable[[Item], Sent], items: Sequence[Item], due_s: Sequence[float], check: Check
) -> list[Sent]:
    """Call ``send`` with each item when it is due (`time.monotonic`), and return the results; ``check`` may raise."""
    sent = []
    for item, at_s in zip(items, due_s, strict=True):
        check()
        while (early_s := at_s - time.monotonic()) > 0:
            time.sleep(min(early_s, 1.0))
            check()
        sent.append(send(item))
    return sent


def queue_s(metrics: Mapping[str, Any]) -> float:
    """Return the time from the submit of a request to the start of its batch, from its metrics."""
    return float(metrics["queue_ms"] + metrics["batch_wait_ms"]) / 1e3


def recorded(arrival_s: float, metrics: Mapping[str, Any]) -> Recorded:
    """Return one request of a run from the metrics of its prediction."""
    return Recorded(
        arrival_s=arrival_s,
        tokens=metrics["tokens"],
        queue_s=queue_s(metrics),
        latency_s=metrics["total_ms"] / 1e3,
        pass_id=metrics["batch_id"],
        pass_s=metrics["compute_ms"] / 1e3,
        pass_size=metrics["batch_size"],
        pass_tokens=metrics["batch_tokens"],
    )
