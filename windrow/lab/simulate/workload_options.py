"""From the options of a command to a workload."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from windrow.lab.simulate.traces import read_trace
from windrow.lab.simulate.workload import PATTERNS, Flow, Workload, draw_arrivals, draw_flows, draw_lengths

DEFAULT_RATE_PER_S, DEFAULT_REQUESTS = 40.0, 10_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives: a trace, or requests drawn at random."""

    pattern: str = "poisson"
    #: None: of a trace its own, else `DEFAULT_RATE_PER_S`.
    rate_per_s: float | None = None
    #: None: of a trace all of it, else `DEFAULT_REQUESTS`.
    requests: int | None = None
    trace: Path | None = None
    #: Of the inputs, in tokens.
    median_tokens: float = 45.0
    sigma: float = 0.9
    max_tokens: int = 256
    flows: tuple[Flow, ...] = (Flow(),)
    seed: int = 0
    #: Of the outputs, where something is generated: median and most tokens; None where nothing is.
    output_tokens: tuple[float, int] | None = None

    def workload(self) -> Workload:
        """Read or draw it. Raises `ValueError` for what cannot be read or drawn."""
        numbers = np.random.default_rng(self.seed)
        made = self._draw(numbers) if self.trace is None else self._read(self.trace)
        if self.output_tokens is None:
            made = replace(made, output_tokens=())
        elif not made.output_tokens:
            drawn = draw_lengths(self.output_tokens[0], self.sigma, self.output_tokens[1], len(made), numbers)
            made = replace(made, output_tokens=drawn)
        return replace(made, flows=self.flows, flow=draw_flows(self.flows, len(made), numbers))

    def trace_generates(self) -> bool:
        """Whether the trace says how much is generated."""
        return self.trace is not None and bool(read_trace(self.trace, 1).output_tokens)

    def _read(self, trace: Path) -> Workload:
        made = read_trace(trace, self.requests)
        return made if self.rate_per_s is None else made.at_rate(self.rate_per_s)

    def _draw(self, numbers: np.random.Generator) -> Workload:
        if self.pattern not in PATTERNS:
            raise ValueError(f"--pattern {self.pattern!r}; there are {', '.join(PATTERNS)}")
        count = self.requests or DEFAULT_REQUESTS
        rate_per_s = DEFAULT_RATE_PER_S if self.rate_per_s is None else self.rate_per_s
        arrival_s = draw_arrivals(PATTERNS[self.pattern], rate_per_s, count, numbers)
        return Workload(arrival_s, draw_lengths(self.median_tokens, self.sigma, self.max_tokens, count, numbers))

    def describe(self) -> str:
        """In a few words, for a report."""
        who = "" if len(self.flows) < 2 else f", {len(self.flows)} flows"
        drawn = ""
        if self.output_tokens is not None and not self.trace_generates():
            drawn = f"; {self.output_tokens[0]:g} generated, up to {self.output_tokens[1]}"
        if self.trace is not None:
            rate = "" if self.rate_per_s is None else f" at {self.rate_per_s:g}/s"
            return f"trace {self.trace.name}{rate}{drawn}{who}"
        lengths = (
            f"lengths lognormal, median {self.median_tokens:g} tokens, sigma {self.sigma:g}, up to {self.max_tokens}"
        )
        return f"{self.pattern}, {self.rate_per_s or DEFAULT_RATE_PER_S:g}/s, {lengths}{drawn}, seed {self.seed}{who}"
