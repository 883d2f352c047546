"""Make a workload from the options of a command."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from windrow.lab.simulate.traces import read_trace
from windrow.lab.simulate.workload import PATTERNS, Flow, Workload, draw_arrivals, draw_flows, draw_lengths

DEFAULT_RATE_PER_S, DEFAULT_REQUESTS = 40.0, 10_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of a run: a trace, or drawn at random."""

    pattern: str = "poisson"
    #: None for the rate of the trace, or `DEFAULT_RATE_PER_S` without a trace.
    rate_per_s: float | None = None
    #: None for all of the trace, or `DEFAULT_REQUESTS` without a trace.
    requests: int | None = None
    trace: Path | None = None
    #: Lengths of the inputs, in tokens.
    median_tokens: float = 45.0
    sigma: float = 0.9
    max_tokens: int = 256
    flows: tuple[Flow, ...] = (Flow(),)
    seed: int = 0
    #: For generation: the median and the maximum length of the outputs, in tokens; None without generation.
    output_tokens: tuple[float, int] | None = None

    def workload(self) -> Workload:
        """Read or draw the requests. Raises `ValueError` if the trace or an option is invalid."""
        numbers = np.random.default_rng(self.seed)
        workload = self._draw(numbers) if self.trace is None else self._read(self.trace)
        if self.output_tokens is None:
            workload = replace(workload, output_tokens=())
        elif not workload.output_tokens:
            drawn = draw_lengths(self.output_tokens[0], self.sigma, self.output_tokens[1], len(workload), numbers)
            workload = replace(workload, output_tokens=drawn)
        return replace(workload, flows=self.flows, flow=draw_flows(self.flows, len(workload), numbers))

    def trace_generates(self) -> bool:
        """Whether the trace has the lengths of the outputs."""
        return self.trace is not None and bool(read_trace(self.trace, 1).output_tokens)

    def _read(self, trace: Path) -> Workload:
        workload = read_trace(trace, self.requests)
        return workload if self.rate_per_s is None else workload.at_rate(self.rate_per_s)

    def _draw(self, numbers: np.random.Generator) -> Workload:
        if self.pattern not in PATTERNS:
            raise ValueError(f"--pattern is {self.pattern!r}; accepted are {', '.join(PATTERNS)}")
        count = self.requests or DEFAULT_REQUESTS
        rate_per_s = DEFAULT_RATE_PER_S if self.rate_per_s is None else self.rate_per_s
        arrival_s = draw_arrivals(PATTERNS[self.pattern], rate_per_s, count, numbers)
        return Workload(arrival_s, draw_lengths(self.median_tokens, self.sigma, self.max_tokens, count, numbers))

    def describe(self) -> str:
        """Return a short description for a report."""
        flows = "" if len(self.flows) < 2 else f", {len(self.flows)} flows"
        drawn = ""
        if self.output_tokens is not None and not self.trace_generates():
            drawn = f"; {self.output_tokens[0]:g} generated, up to {self.output_tokens[1]}"
        if self.trace is not None:
            rate = "" if self.rate_per_s is None else f" at {self.rate_per_s:g}/s"
            return f"trace {self.trace.name}{rate}{drawn}{flows}"
        lengths = (
            f"lengths lognormal, median {self.median_tokens:g} tokens, sigma {self.sigma:g}, up to {self.max_tokens}"
        )
        return f"{self.pattern}, {self.rate_per_s or DEFAULT_RATE_PER_S:g}/s, {lengths}{drawn}, seed {self.seed}{flows}"
