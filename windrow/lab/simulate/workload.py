"""What arrives when: drawn at random from a pattern, or read from a trace (`windrow.lab.simulate.traces`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name

#: Of an arrival: some hundred years. Later, floats have no microseconds left.
LATEST_S = 4e9
#: Of one request, far beyond what any model takes.
MOST_TOKENS = 10**9
#: Steps over which a pattern's rate is taken as constant.
GRID = 10_000


@dataclass(frozen=True, slots=True)
class Flow:
    """Who sends: one flow of the fair queue."""

    tenant: str = "default"
    priority: str = "normal"
    #: Of the tenant, beside others that have work waiting.
    tenant_weight: float = 1.0
    #: Share of the requests that it sends; shares are normalised.
    share: float = 1.0

    @property
    def name(self) -> str:
        """As the queue calls it."""
        return flow_name(self.tenant, self.priority)

    @property
    def weight(self) -> float:
        """As the queue counts it."""
        return self.tenant_weight * PRIORITY_WEIGHTS[self.priority]


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival, as columns of equal length.

    Raises `ValueError` for no requests, arrivals that are negative, after `LATEST_S` or out of order, requests of less
    than one token or more than `MOST_TOKENS`, and flows of one name.
    """

    #: Seconds on the virtual clock, which starts at 0.
    arrival_s: Sequence[float]
    #: Length of the input in tokens.
    tokens: Sequence[int]
    #: Tokens to generate; empty where nothing is generated.
    output_tokens: Sequence[int] = ()
    #: Which of ``flows`` sends each; empty where there is one.
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
            raise ValueError("the columns of a workload are of one length")
        if not all(0 <= at_s <= LATEST_S for at_s in self.arrival_s):
            wrong = next(number for number, at_s in enumerate(self.arrival_s) if not 0 <= at_s <= LATEST_S)
            raise ValueError(
                f"request {wrong + 1} arrives at {self.arrival_s[wrong]}; arrivals are seconds from 0 to {LATEST_S:g}"
            )
        if any(after < before for before, after in pairwise(self.arrival_s)):
            wrong = next(n for n, (before, after) in enumerate(pairwise(self.arrival_s)) if after < before)
            raise ValueError(
                f"request {wrong + 2} arrives at {self.arrival_s[wrong + 1]}, before the one ahead of it "
                f"({self.arrival_s[wrong]}); arrivals are in order"
            )
        names = [flow.name for flow in self.flows]
        if len(set(names)) < len(names):
            raise ValueError(f"flows take each tenant and priority once, not {', '.join(names)}")
        for name, column in (("tokens", self.tokens), ("output_tokens", self.output_tokens)):
            refused = next((n for n, length in enumerate(column) if not 1 <= length <= MOST_TOKENS), None)
            if refused is not None:
                raise ValueError(f"request {refused + 1} has {column[refused]} {name}; takes 1 to {MOST_TOKENS:g}")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_per_s(self) -> float:
        """Requests a second between the first and the last arrival; of a single moment, infinite."""
        span_s = self.arrival_s[-1] - self.arrival_s[0]
        return (len(self) - 1) / span_s if span_s > 0 else math.inf

    def at_rate(self, rate_per_s: float) -> Workload:
        """The same requests in the same pattern, closer together or further apart."""
        if not 0 < rate_per_s < math.inf:
            raise ValueError(f"the rate is {rate_per_s}; it takes requests a second, more than 0")
        first_s, stretch = self.arrival_s[0], self.rate_per_s / rate_per_s
        if math.isinf(stretch):
            raise ValueError("all requests arrive in one moment, which has no rate to change")
        return replace(self, arrival_s=[(at_s - first_s) * stretch for at_s in self.arrival_s])

    def first(self, count: int) -> Workload:
        """The first ``count`` requests."""
        cut = {name: getattr(self, name)[:count] for name in ("arrival_s", "tokens", "output_tokens", "flow")}
        return replace(self, **cut)


#: Relative rate at each share (0 to 1) of the time; only its shape counts.
Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def burst_shape(bursts: int = 10, factor: float = 8.0, share: float = 0.1) -> Shape:
    """``bursts`` of ``factor`` times the rate between them, which take ``share`` of the time."""
    return lambda at: np.where((at * bursts) % 1.0 < share, factor, 1.0)


def diurnal_shape(days: float = 1.0, depth: float = 0.8) -> Shape:
    """A sine of ``days`` periods that begins at its lowest and swings by ``depth`` (0 to 1) of the mean."""
    return lambda at: 1.0 - depth * np.cos(2 * np.pi * days * at)


def ramp_shape(factor: float = 10.0) -> Shape:
    """Straight up to ``factor`` times the rate at the start."""
    return lambda at: 1.0 + (factor - 1.0) * at


#: Pattern name -> shape; each is a Poisson process of that rate.
PATTERNS: Mapping[str, Shape] = {
    "poisson": np.ones_like,
    "bursts": burst_shape(),
    "diurnal": diurnal_shape(),
    "ramp": ramp_shape(),
}


def draw_arrivals(shape: Shape, rate_per_s: float, count: int, numbers: np.random.Generator) -> list[float]:
    """``count`` arrivals of a Poisson process whose rate follows ``shape`` and is ``rate_per_s`` on average.

    Given their number, the arrivals of a Poisson process are independent draws from its rate as a density (Ross,
    Introduction to Probability Models, 5.3), so they are drawn, sorted and mapped through the inverse of its integral.
    """
    if not 0 < rate_per_s < math.inf or count < 1:
        raise ValueError("takes a rate of more than 0 requests a second, and 1 request or more")
    edges = np.linspace(0.0, 1.0, GRID + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(shape((edges[1:] + edges[:-1]) / 2))])
    uniform = np.sort(numbers.random(count))
    at = np.interp(uniform, cumulative / cumulative[-1], edges)
    return list((at * (count / rate_per_s)).tolist())


def draw_lengths(
    median_tokens: float, sigma: float, most_tokens: int, count: int, numbers: np.random.Generator
) -> list[int]:
    """Lognormal lengths in tokens, from 1 to ``most_tokens``; ``sigma`` is that of the logarithm."""
    if not (1 <= median_tokens < math.inf and 0 <= sigma < math.inf and 1 <= most_tokens <= MOST_TOKENS):
        raise ValueError(
            f"lengths of a median of {median_tokens} tokens, sigma {sigma} and at most {most_tokens}: they take a "
            f"median of 1 or more and a sigma of 0 or more, both finite, and at most 1 to {MOST_TOKENS:g}"
        )
    drawn = numbers.lognormal(math.log(median_tokens), sigma, count)
    return list(np.clip(np.rint(drawn), 1, most_tokens).astype(int).tolist())


def draw_flows(flows: Sequence[Flow], count: int, numbers: np.random.Generator) -> list[int]:
    """Who sends each of ``count`` requests, by the shares of ``flows``; empty where there is one."""
    if len(flows) < 2:
        return []
    shares = np.array([flow.share for flow in flows], float)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise ValueError("the shares of flows are numbers above 0")
    shares /= shares.max()  # sums of the largest floats are infinite
    return list(numbers.choice(len(flows), size=count, p=shares / shares.sum()).tolist())
