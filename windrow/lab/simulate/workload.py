"""Workloads: the arrivals and lengths of requests, drawn at random or read by `windrow.lab.simulate.traces`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name

#: Latest arrival in seconds, about a hundred years. Beyond it, a float does not resolve microseconds.
LATEST_S = 4e9
#: Maximum length of one request in tokens, far beyond what any model accepts.
MAX_TOKENS = 10**9
#: Number of steps into which a pattern is divided; its rate is constant within each.
GRID = 10_000


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow of the fair queue: a tenant with a priority."""

    tenant: str = "default"
    priority: str = "normal"
    #: Weight of the tenant relative to other tenants whose requests wait.
    tenant_weight: float = 1.0
    #: Relative number of requests that it sends; shares are normalized.
    share: float = 1.0

    @property
    def name(self) -> str:
        """The name of the flow in the queue."""
        return flow_name(self.tenant, self.priority)

    @property
    def weight(self) -> float:
        """The weight of the flow in the queue."""
        return self.tenant_weight * PRIORITY_WEIGHTS[self.priority]


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order of arrival, as columns of equal length.

    Raises `ValueError` if there are no requests, if an arrival is negative, after `LATEST_S` or out of order, if a
    length is not between 1 and `MAX_TOKENS`, or if two flows have the same name.
    """

    #: Seconds on the virtual clock, which starts at 0.
    arrival_s: Sequence[float]
    #: Length of the input in tokens.
    tokens: Sequence[int]
    #: Tokens to generate; empty without generation.
    output_tokens: Sequence[int] = ()
    #: For each request, the position of its flow in ``flows``; empty if there is one flow.
    flow: Sequence[int] = ()
    flows: tuple[Flow, ...] = (Flow(),)

    def __post_init__(self) -> None:
        count = len(self.arrival_s)
        if not count:
            raise ValueError("the workload has no requests")
        if (
            any(len(column) not in (count, 0) for column in (self.output_tokens, self.flow))
            or len(self.tokens) != count
        ):
            raise ValueError("the columns of a workload differ in length; each needs one entry per request")
        if not all(0 <= at_s <= LATEST_S for at_s in self.arrival_s):
            wrong = next(number for number, at_s in enumerate(self.arrival_s) if not 0 <= at_s <= LATEST_S)
            raise ValueError(
                f"request {wrong + 1} arrives at {self.arrival_s[wrong]}; arrivals are seconds from 0 to {LATEST_S:g}"
            )
        if any(after < before for before, after in pairwise(self.arrival_s)):
            wrong = next(n for n, (before, after) in enumerate(pairwise(self.arrival_s)) if after < before)
            raise ValueError(
                f"request {wrong + 2} arrives at {self.arrival_s[wrong + 1]}, before the previous one "
                f"({self.arrival_s[wrong]}); arrivals must be in ascending order"
            )
        names = [flow.name for flow in self.flows]
        if len(set(names)) < len(names):
            raise ValueError(f"the flows are {', '.join(names)}; each tenant and priority may appear once")
        for name, column in (("tokens", self.tokens), ("output_tokens", self.output_tokens)):
            refused = next((n for n, length in enumerate(column) if not 1 <= length <= MAX_TOKENS), None)
            if refused is not None:
                raise ValueError(
                    f"request {refused + 1} has {column[refused]} {name}; accepted are 1 to {MAX_TOKENS:g}"
                )

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_per_s(self) -> float:
        """Requests per second between the first and the last arrival; infinite if all arrive at once."""
        span_s = self.arrival_s[-1] - self.arrival_s[0]
        return (len(self) - 1) / span_s if span_s > 0 else math.inf

    def at_rate(self, rate_per_s: float) -> Workload:
        """Return the same requests with all gaps scaled so that they arrive at ``rate_per_s``."""
        if not 0 < rate_per_s < math.inf:
            raise ValueError(f"the rate is {rate_per_s}; it must be a finite number of requests per second above 0")
        first_s, stretch = self.arrival_s[0], self.rate_per_s / rate_per_s
        if math.isinf(stretch):
            raise ValueError("all requests arrive at once, so there is no rate to change")
        return replace(self, arrival_s=[(at_s - first_s) * stretch for at_s in self.arrival_s])

    def first(self, count: int) -> Workload:
        """Return the first ``count`` requests."""
        cut = {name: getattr(self, name)[:count] for name in ("arrival_s", "tokens", "output_tokens", "flow")}
        return replace(self, **cut)


#: Relative rate as a function of time, which is scaled to 0 to 1; only ratios of rates matter.
Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def burst_shape(bursts: int = 10, factor: float = 8.0, share: float = 0.1) -> Shape:
    """Return ``bursts`` bursts at ``factor`` times the rate between them; they take ``share`` of the time."""
    return lambda at: np.where((at * bursts) % 1.0 < share, factor, 1.0)


def diurnal_shape(days: float = 1.0, depth: float = 0.8) -> Shape:
    """Return a sine of ``days`` periods that starts at its minimum; its amplitude is ``depth`` (0 to 1) of the mean."""
    return lambda at: 1.0 - depth * np.cos(2 * np.pi * days * at)


def ramp_shape(factor: float = 10.0) -> Shape:
    """Return a linear increase to ``factor`` times the rate at the start."""
    return lambda at: 1.0 + (factor - 1.0) * at


#: Pattern name -> shape of the rate of a Poisson process.
PATTERNS: Mapping[str, Shape] = {
    "poisson": np.ones_like,
    "bursts": burst_shape(),
    "diurnal": diurnal_shape(),
    "ramp": ramp_shape(),
}


def draw_arrivals(shape: Shape, rate_per_s: float, count: int, numbers: np.random.Generator) -> list[float]:
    """Draw ``count`` arrivals of a Poisson process whose rate follows ``shape`` and is ``rate_per_s`` on average.

    Given their number, the arrivals of a Poisson process are independent draws with its rate as density (Ross,
    Introduction to Probability Models, 5.3). They are drawn by inverting the integral of the rate.
    """
    if not 0 < rate_per_s < math.inf or count < 1:
        raise ValueError(f"{count} requests at {rate_per_s} per second; a workload needs 1 or more, at a rate above 0")
    edges = np.linspace(0.0, 1.0, GRID + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(shape((edges[1:] + edges[:-1]) / 2))])
    uniform = np.sort(numbers.random(count))
    at = np.interp(uniform, cumulative / cumulative[-1], edges)
    return list((at * (count / rate_per_s)).tolist())


def draw_lengths(
    median_tokens: float, sigma: float, max_tokens: int, count: int, numbers: np.random.Generator
) -> list[int]:
    """Draw lognormal lengths from 1 to ``max_tokens``; ``sigma`` is the standard deviation of the logarithm."""
    if not (1 <= median_tokens < math.inf and 0 <= sigma < math.inf and 1 <= max_tokens <= MAX_TOKENS):
        raise ValueError(
            f"lengths have median {median_tokens}, sigma {sigma} and maximum {max_tokens}; the median must be 1 or "
            f"more and sigma 0 or more, both finite, and the maximum 1 to {MAX_TOKENS:g}"
        )
    drawn = numbers.lognormal(math.log(median_tokens), sigma, count)
    return list(np.clip(np.rint(drawn), 1, max_tokens).astype(int).tolist())


def draw_flows(flows: Sequence[Flow], count: int, numbers: np.random.Generator) -> list[int]:
    """Draw the flow of each of ``count`` requests by the shares of ``flows``; empty if there is one flow."""
    if len(flows) < 2:
        return []
    shares = np.array([flow.share for flow in flows], float)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise ValueError(f"the shares of the flows are {shares.tolist()}; each must be a finite number above 0")
    shares /= shares.max()  # so that the sum of very large shares is finite
    return list(numbers.choice(len(flows), size=count, p=shares / shares.sum()).tolist())
