"""``python -m benchmarks.window_sweep``: the learnt wait beside the best fixed window, on a virtual clock.

One device, the decisions of `windrow.scheduler.core.window`, and traffic whose load goes from 5 % to 95 % of what the
device
can do. For each load, every fixed window of `GRID_S` has its mean latency measured over the same arrivals; the learnt
wait, and the default (5 ms, closed early where no company is likely), are compared with the best of them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import NamedTuple

from windrow.scheduler.core.learned_window import MAX_WAIT_S, LearnedWindow
from windrow.scheduler.core.window import Close, JoinRate, Wait, WindowLimits, decide_window, take_count

#: The fixed windows, in seconds.
GRID_S = (0.0, 0.001, 0.002, 0.005, 0.010, 0.020, 0.050)
LOADS = tuple(percent / 100 for percent in range(5, 100, 5))
LIMITS = WindowLimits(max_batch_size=16, max_batch_tokens=4096, max_wait_s=0.005)
#: Share of the requests, at the beginning, whose latency is not counted: the time to learn.
WARM = 0.2
#: Mean of `_tokens`, by which a load is turned into a rate.
MEAN_TOKENS = 50


class Request(NamedTuple):
    """One request of so many tokens, and when it came."""

    at_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Device:
    """What a row costs, in seconds: ``fixed_s + request_s * requests + token_s * tokens``."""

    fixed_s: float
    request_s: float = 0.0
    token_s: float = 0.0

    def row_s(self, row: Sequence[Request]) -> float:
        """Seconds that ``row`` takes."""
        return self.fixed_s + self.request_s * len(row) + self.token_s * sum(one.tokens for one in row)

    def capacity_per_s(self, limits: WindowLimits) -> float:
        """Requests a second in full rows of mean length."""
        size = min(limits.max_batch_size, limits.max_batch_tokens // MEAN_TOKENS)
        return size / self.row_s([Request(0.0, MEAN_TOKENS)] * size)


DEVICES = {
    "fixed": Device(fixed_s=0.020),
    "small": Device(fixed_s=0.005, request_s=20e-6, token_s=2e-6),
    "mixed": Device(fixed_s=0.010, request_s=500e-6, token_s=20e-6),
    "tokens": Device(fixed_s=0.002, token_s=100e-6),
}


def poisson(rate_per_s: float, requests: int, seed: int) -> list[Request]:
    """Arrivals that know nothing of each other."""
    numbers = random.Random(seed)
    at_s, made = 0.0, []
    for _ in range(requests):
        at_s += numbers.expovariate(rate_per_s)
        made.append(Request(at_s, _tokens(numbers)))
    return made


def bursts(rate_per_s: float, requests: int, seed: int) -> list[Request]:
    """Groups of 6 on average, each spread over 4 ms, that know nothing of each other."""
    numbers = random.Random(seed)
    at_s, made = 0.0, list[Request]()
    while len(made) < requests:
        at_s += numbers.expovariate(rate_per_s / 6)
        size = 1 + int(numbers.expovariate(1 / 5.5))  # rounding down takes half of one
        made += [Request(at_s + numbers.uniform(0, 0.004), _tokens(numbers)) for _ in range(size)]
    return sorted(made)


def _tokens(numbers: random.Random) -> int:
    return max(3, min(400, int(numbers.lognormvariate(3.5, 0.9))))


TRAFFIC: dict[str, Callable[[float, int, int], list[Request]]] = {"poisson": poisson, "bursts": bursts}
#: When the sender of a request that ended sends the next one.
Again = Callable[[float], Request]


def tokens_of(row: Iterable[Request], limits: WindowLimits) -> list[int]:
    """Tokens of those that can be taken at once; what waits behind them changes no decision."""
    return [one.tokens for one in islice(row, limits.max_batch_size)]


class Policy:
    """A fixed window, and what another policy may learn from."""

    def __init__(self, limits: WindowLimits) -> None:
        self.limits = limits

    def arrived(self, request: Request) -> None:
        """A request came into the row."""

    def ran(self, now_s: float, row: Sequence[Request], seconds: float, is_idle: bool) -> None:
        """A row ended; ``is_idle`` where nothing waits behind it."""

    def rate(self, now_s: float) -> JoinRate | None:
        """The company to expect; None where the window is used whole."""
        return None

    def decide(self, now_s: float, row: deque[Request]) -> Close | Wait:
        """Decide for a free device."""
        tokens = sum(tokens_of(row, self.limits))
        return decide_window(now_s, row[0].at_s, len(row), tokens, self.limits, self.rate(now_s))


class Company(Policy):
    """A window that closes early where no company is likely, as the worker's rows do (ADR 4)."""

    def __init__(self, limits: WindowLimits) -> None:
        super().__init__(limits)
        self._rate, self._joins = JoinRate.unknown(limits.max_wait_s), 0
        self._since_s: float | None = None

    def arrived(self, request: Request) -> None:
        """The first one is not company."""
        if self._since_s is None:
            self._since_s = request.at_s
        else:
            self._joins += 1

    def ran(self, now_s: float, row: Sequence[Request], seconds: float, is_idle: bool) -> None:
        """Book what joined."""
        self._rate, self._joins = self.rate(now_s), 0
        self._since_s = None if is_idle else now_s

    def rate(self, now_s: float) -> JoinRate:
        """As observed until now."""
        exposure_s = 0.0 if self._since_s is None else now_s - self._since_s
        return self._rate.observe(self._joins, exposure_s, self.limits.max_wait_s)


class Learnt(Policy):
    """``max_wait_ms = "auto"``."""

    def __init__(self, limits: WindowLimits) -> None:
        self._window = LearnedWindow(replace(limits, max_wait_s=MAX_WAIT_S))
        super().__init__(self._window.limits)

    def arrived(self, request: Request) -> None:
        """Remember it."""
        self._window.arrived(request.at_s, request.tokens)

    def ran(self, now_s: float, row: Sequence[Request], seconds: float, is_idle: bool) -> None:
        """Learn what it cost."""
        self._window.ran(now_s, len(row), sum(one.tokens for one in row), seconds)
        self.limits = self._window.limits


def simulate(
    first: Iterable[Request], policy: Policy, device: Device, requests: int, again: Again | None = None
) -> list[float]:
    """Latencies in seconds of the first ``requests`` that end, from arrival to the end of the row, in that order.

    ``again`` makes it a closed loop: each end brings another request.
    """
    numbers = count()
    coming = [(request.at_s, next(numbers), request) for request in first]
    heapq.heapify(coming)
    row: deque[Request] = deque()
    latencies_s: list[float] = []
    now_s = 0.0

    def arrive() -> None:
        while coming and coming[0][0] <= now_s:
            row.append(heapq.heappop(coming)[2])
            policy.arrived(row[-1])

    while len(latencies_s) < requests and (coming or row):
        arrive()
        if not row:
            now_s = coming[0][0]
            continue
        decision = policy.decide(now_s, row)
        if isinstance(decision, Wait):
            end_s = now_s + decision.seconds
            now_s = min(end_s, coming[0][0]) if coming else end_s
            continue
        taken = [row.popleft() for _ in range(take_count(tokens_of(row, policy.limits), policy.limits))]
        row_s = device.row_s(taken)
        now_s += row_s
        arrive()
        policy.ran(now_s, taken, row_s, not row)
        latencies_s += [now_s - one.at_s for one in taken]
        for _ in taken if again else ():
            assert again is not None
            request = again(now_s)
            heapq.heappush(coming, (request.at_s, next(numbers), request))
    return latencies_s


def clients(number: int, think_s: float, seed: int) -> tuple[list[Request], Again]:
    """So many clients that send again 0.5 ms after each answer, and after thinking for ``think_s`` on average."""
    numbers = random.Random(seed)

    def again(now_s: float) -> Request:
        pause_s = numbers.expovariate(1 / think_s) if think_s else 0.0
        return Request(now_s + 0.0005 + pause_s, _tokens(numbers))

    return [Request(numbers.uniform(0, 0.003), _tokens(numbers)) for _ in range(number)], again


@dataclass(frozen=True, slots=True)
class Point:
    """Mean latencies, in seconds, at one load."""

    traffic: str
    device: str
    #: Share of what the device can do in full rows; for a closed loop, the clients.
    load: float
    #: Of `GRID_S`, the one with the lowest mean.
    best_wait_s: float
    best_s: float
    no_wait_s: float
    default_s: float
    learnt_s: float
    #: The wait at the end.
    learnt_wait_s: float

    @property
    def regret(self) -> float:
        """By what share the learnt wait is slower than the best fixed one; below 0 where it is faster."""
        return self.learnt_s / self.best_s - 1


def measure(traffic: str, load: float, device: str, run: Callable[[Policy], list[float]]) -> Point:
    """Run every policy over the same traffic."""

    def mean_s(policy: Policy) -> float:
        latencies_s = run(policy)
        counted = latencies_s[int(WARM * len(latencies_s)) :]
        return sum(counted) / len(counted)

    fixed = {wait_s: mean_s(Policy(replace(LIMITS, max_wait_s=wait_s))) for wait_s in GRID_S}
    best_wait_s = min(fixed, key=lambda wait_s: fixed[wait_s])
    learnt = Learnt(LIMITS)
    learnt_s = mean_s(learnt)
    return Point(
        traffic, device, load, best_wait_s, fixed[best_wait_s], fixed[0.0], mean_s(Company(LIMITS)), learnt_s,
        learnt.limits.max_wait_s,
    )  # fmt: skip


def sweep(
    requests: int, loads: Sequence[float] = LOADS, devices: Sequence[str] = tuple(DEVICES), seed: int = 1
) -> list[Point]:
    """Every traffic of `TRAFFIC` at every load on every device, ``requests`` each."""
    points = []
    for traffic, make in TRAFFIC.items():
        for name in devices:
            device = DEVICES[name]
            for load in loads:
                arrivals = make(load * device.capacity_per_s(LIMITS), requests, seed)
                run = _open_loop(arrivals, device, requests)
                points.append(measure(traffic, load, name, run))
    return points


def sweep_clients(requests: int, seed: int = 1) -> list[Point]:
    """Closed loops of 1 to 48 clients, on every device."""
    return [
        measure(f"clients, {think_s * 1e3:g} ms", number, name, _closed_loop(number, think_s, device, requests, seed))
        for think_s in (0.0, 0.002, 0.020)
        for name, device in DEVICES.items()
        for number in (1, 2, 4, 8, 16, 24, 48)
    ]


def _open_loop(arrivals: list[Request], device: Device, requests: int) -> Callable[[Policy], list[float]]:
    return lambda policy: simulate(arrivals, policy, device, requests)


def _closed_loop(
    number: int, think_s: float, device: Device, requests: int, seed: int
) -> Callable[[Policy], list[float]]:
    def run(policy: Policy) -> list[float]:
        first, again = clients(number, think_s, seed)
        return simulate(first, policy, device, requests, again)

    return run


def main() -> None:
    """Print a line a point, and the worst of all."""
    parser = argparse.ArgumentParser(description="The learnt wait beside the best of a grid of fixed windows.")
    parser.add_argument(
        "--requests",
        type=int,
        default=20_000,
        help="requests a point; at 95 %% of the load that is 25 s to learn and be measured",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", action="store_true", help="closed loops of 1 to 48 clients instead of loads")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    points = (
        sweep_clients(options.requests, options.seed) if options.clients else sweep(options.requests, seed=options.seed)
    )
    if options.json:
        print(json.dumps([asdict(point) | {"regret": point.regret} for point in points]))
        return
    print(f"{'traffic':16}{'device':8}{'load':>6}{'best':>16}{'no wait':>10}{'default':>10}{'learnt':>10}{'wait':>10}")
    for one in points:
        ratios = "".join(f"{mean_s / one.best_s:>10.3f}" for mean_s in (one.no_wait_s, one.default_s, one.learnt_s))
        best = f"{one.best_s * 1e3:.1f} ms at {one.best_wait_s * 1e3:g}"
        print(f"{one.traffic:16}{one.device:8}{one.load:>6g}{best:>16}{ratios}{one.learnt_wait_s * 1e3:>7.2f} ms")
    worst = max(points, key=lambda point: point.regret)
    print(f"learnt against the best fixed window: {worst.regret:+.1%} at worst, {worst.traffic}, {worst.device}")


if __name__ == "__main__":
    main()
