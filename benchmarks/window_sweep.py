"""``python -m benchmarks.window_sweep``: simulate the learned window and the best fixed ``max_wait_ms``.

The load goes from 5 to 95 % of what one device can do in full batches. At each load, the same requests are simulated
with every fixed window of `FIXED_S`, which an idle device closes early if no further request is likely, and with
``max_wait_ms = "auto"``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from windrow.lab.costs.cost import CostModel, PassCost
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.simulation import simulate
from windrow.lab.simulate.workload import PATTERNS, Workload, draw_arrivals, draw_lengths
from windrow.scheduler.core.planning import BatchLimits

#: The fixed windows in seconds.
FIXED_S = (0.0, 0.001, 0.002, 0.005, 0.010, 0.020, 0.050)
LOADS = tuple(percent / 100 for percent in range(5, 100, 5))
LIMITS = BatchLimits(max_batch_size=16, max_batch_tokens=4096)
#: Share of the requests, from the first, whose latency is not counted: the time to learn.
WARM_UP = 0.2
MEDIAN_TOKENS, SIGMA, MAX_TOKENS, MEAN_TOKENS = 33, 0.9, 400, 50
#: What a batch costs on each device: seconds per batch, per token and per request.
DEVICES = {
    "fixed": PassCost(0.020, 0.0),
    "small": PassCost(0.005, 2e-6, 20e-6),
    "mixed": PassCost(0.010, 20e-6, 500e-6),
    "tokens": PassCost(0.002, 100e-6),
}
#: Draws the arrival times of a number of requests that arrive at a mean rate.
Traffic = Callable[[float, int, np.random.Generator], list[float]]


def poisson(rate_per_s: float, count: int, numbers: np.random.Generator) -> list[float]:
    """Draw independent arrivals."""
    return draw_arrivals(PATTERNS["poisson"], rate_per_s, count, numbers)


def bursts(rate_per_s: float, count: int, numbers: np.random.Generator) -> list[float]:
    """Draw independent bursts of 6 requests on average, each spread over 4 ms."""
    starts_s = np.cumsum(numbers.exponential(6 / rate_per_s, count))
    sizes = 1 + numbers.exponential(5.5, count).astype(int)  # rounding down subtracts a half on average
    arrived_s = np.repeat(starts_s, sizes)[:count] + numbers.uniform(0, 0.004, count)
    return list(np.sort(arrived_s).tolist())


TRAFFIC: dict[str, Traffic] = {"poisson": poisson, "bursts": bursts}


@dataclass(frozen=True, slots=True)
class Point:
    """Mean latencies in seconds at one load."""

    traffic: str
    device: str
    #: Share of what the device can do in full batches.
    load: float
    #: The fixed window with the lowest mean latency, and that latency.
    best_wait_s: float
    best_s: float
    no_wait_s: float
    #: With the default, 5 ms.
    default_s: float
    learned_s: float

    @property
    def regret(self) -> float:
        """Relative latency of the learned window above the best fixed one; negative if it is faster."""
        return self.learned_s / self.best_s - 1


def sweep(
    requests: int, loads: Sequence[float] = LOADS, devices: Sequence[str] = tuple(DEVICES), seed: int = 1
) -> Iterator[Point]:
    """Yield a `Point` of ``requests`` requests for each kind of traffic, device and load."""
    size = min(LIMITS.max_batch_size, LIMITS.max_batch_tokens // MEAN_TOKENS)
    for traffic, draw in TRAFFIC.items():
        for device in devices:
            cost = CostModel(None, DEVICES[device])
            capacity_per_s = size / DEVICES[device].seconds(size * MEAN_TOKENS, size)
            for load in loads:
                numbers = np.random.default_rng(seed)
                arrival_s = draw(load * capacity_per_s, requests, numbers)
                lengths = draw_lengths(MEDIAN_TOKENS, SIGMA, MAX_TOKENS, requests, numbers)
                workload = Workload(arrival_s, lengths)
                fixed = {wait_s: mean_latency_s(workload, wait_s, cost) for wait_s in FIXED_S}
                best_wait_s = min(fixed, key=lambda wait_s: fixed[wait_s])
                learned_s = mean_latency_s(workload, None, cost)
                yield Point(traffic, device, load, best_wait_s, fixed[best_wait_s], fixed[0.0], fixed[0.005], learned_s)


def mean_latency_s(workload: Workload, max_wait_s: float | None, cost: CostModel) -> float:
    """Simulate ``workload`` with a fixed window, or a learned one for None, and return the mean latency."""
    outcome = simulate(workload, Policy("packed", LIMITS, max_wait_s), cost)
    latencies_s = np.array(outcome.end_s) - np.array(workload.arrival_s)
    return float(latencies_s[int(WARM_UP * len(latencies_s)) :].mean())


def main() -> None:
    """Print one line per point and the worst of all points."""
    parser = argparse.ArgumentParser(description="Compare the learned window with the best fixed one.")
    parser.add_argument("--requests", type=int, default=20_000, help="requests per point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    points = list(sweep(options.requests, seed=options.seed))
    if options.json:
        print(json.dumps([asdict(point) | {"regret": point.regret} for point in points]))
        return
    print(f"{'traffic':16}{'device':8}{'load':>6}{'best':>16}{'no wait':>10}{'default':>10}{'learned':>10}")
    for point in points:
        latencies_s = (point.no_wait_s, point.default_s, point.learned_s)
        ratios = "".join(f"{mean_s / point.best_s:>10.3f}" for mean_s in latencies_s)
        best = f"{point.best_s * 1e3:.1f} ms at {point.best_wait_s * 1e3:g}"
        print(f"{point.traffic:16}{point.device:8}{point.load:>6g}{best:>16}{ratios}")
    worst = max(points, key=lambda point: point.regret)
    print(f"learned against the best fixed window: {worst.regret:+.1%} at worst, {worst.traffic}, {worst.device}")


if __name__ == "__main__":
    main()
