"""A run of a real server, request by request, to lay a simulated one over.

JSON lines. The first is ``{"windrow_run": 1, "model", "strategy", "max_batch_size", "max_batch_tokens",
"max_wait_s", "buckets", "static_length", "rungs", "row_rungs", "devices", ...}``; then one line a request in order of
arrival (of models that generate: `windrow.lab.measure.step_recording`):

| field | holds |
|---|---|
| ``arrival_s`` | when it was submitted, from the first one |
| ``tokens`` | its length |
| ``queue_s``, ``latency_s`` | from there until its pass began and until it had its answer, as the worker saw it |
| ``pass_id``, ``pass_s``, ``pass_size``, ``pass_tokens`` | its pass: name, duration, requests, tokens computed |
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from windrow.lab.costs.fitting import TimedPass
from windrow.lab.costs.shared_cores import ALONE, Shared
from windrow.lab.measure.run_file import (
    GENERATE,
    VERSION,
    TimedRequest,
    describe_read_error,
    read_head,
    read_lines,
    read_requests,
    write_lines,
)
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.planning import PLANNERS, BatchLimits

#: Passes that began on an idle device, below which nothing is said of the time that this takes.
ENOUGH = 20
#: A pass that began later after an arrival had waited for company, or for a core, in seconds.
WAITED_S = 0.005
#: What was done for requests that came so long before a pass may run beside it still, in seconds.
BEFORE_S = 0.02


@dataclass(frozen=True, slots=True)
class Recorded(TimedRequest):
    """One request of a run; see the module."""

    tokens: int
    queue_s: float
    latency_s: float
    pass_id: str
    pass_s: float
    pass_size: int
    pass_tokens: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A run: under which settings, and what became of each request, in order of arrival."""

    policy: Policy
    devices: int
    about: Mapping[str, Any]
    requests: Sequence[Recorded]

    @property
    def workload(self) -> Workload:
        """What arrived."""
        return Workload([one.arrival_s for one in self.requests], [one.tokens for one in self.requests])

    def passes(self) -> list[TimedPass]:
        """Each pass of the run once, but for those that ended no later than one before them, which say nothing.

        On one device, a pass that was started while others ran shared the lanes with them, and all share them with the
        chores of what comes meanwhile.
        """
        lengths: dict[str, list[int]] = {}
        by_id: dict[str, Recorded] = {}
        for one in self.requests:
            by_id[one.pass_id] = one
            lengths.setdefault(one.pass_id, []).append(one.tokens)
        spans = [(one.arrival_s + one.queue_s, one.pass_s, id) for id, one in by_id.items()]
        ends: deque[float] = deque()
        came_s = [one.arrival_s for one in self.requests]
        made = []
        for number, (start_s, took_s, id) in enumerate(ordered := sorted(spans)):
            while ends and ends[0] <= start_s:
                ends.popleft()
            one, is_packed = by_id[id], self.policy.strategy == "packed"
            widths = lengths[id] if is_packed else [one.pass_tokens // one.pass_size] * one.pass_size
            next_s = ordered[number + 1][0] - start_s if number + 1 < len(ordered) else math.inf
            first, last = bisect_left(came_s, start_s - BEFORE_S), bisect_left(came_s, start_s + took_s)
            shared = ALONE
            if self.devices == 1:
                came = tuple(at_s - start_s for at_s in came_s[first:last])
                shared = Shared(tuple(end_s - start_s for end_s in ends), next_s, came)
            if took_s > max(shared.busy_s, default=0.0):
                made.append(TimedPass(one.pass_tokens, tuple(widths), took_s, shared))
            ends.append(start_s + took_s)
        return made

    def handover_s(self) -> float:
        """From a submit to the start of its pass, where the device was idle and nothing was waited for: the median.

        0 where the run has too few such passes to tell.
        """
        spans: dict[str, list[float]] = {}
        for one in self.requests:
            start_s = one.arrival_s + one.queue_s
            span = spans.setdefault(one.pass_id, [start_s, start_s + one.pass_s, one.arrival_s])
            span[2] = min(span[2], one.arrival_s)
        gaps = [
            start_s - arrival_s
            for (_, ended_s, _), (start_s, _, arrival_s) in pairwise(sorted(spans.values()))
            if arrival_s > ended_s and start_s - arrival_s < max(self.policy.window.max_wait_s, WAITED_S)
        ]
        return max(0.0, median(gaps)) if len(gaps) >= ENOUGH and self.devices == 1 else 0.0


def write_recording(path: Path, recording: Recording) -> None:
    """Write it as the module says."""
    policy, limits = recording.policy, recording.policy.limits
    head = {
        "windrow_run": VERSION, **recording.about, "devices": recording.devices, "strategy": policy.strategy,
        "max_wait_s": policy.max_wait_s, "max_batch_size": limits.max_batch_size,
        "max_batch_tokens": limits.max_batch_tokens, "buckets": limits.buckets, "static_length": limits.static_length,
        "rungs": limits.rungs, "row_rungs": limits.row_rungs,
    }  # fmt: skip
    write_lines(path, head, recording.requests)


def read_recording(path: Path) -> Recording:
    """Read it back. Raises `ValueError` with the file, the line and what is wrong there."""
    lines = read_lines(path)
    try:
        head = read_head(lines)
        if head.get("task") == GENERATE:
            raise ValueError("a run of a model that generates; takes one of a model that answers in one pass")
        limits = BatchLimits(
            int(head["max_batch_size"]),
            int(head["max_batch_tokens"]),
            tuple(head["buckets"]),
            int(head["static_length"]),
            tuple(head["rungs"]),
            tuple(tuple(rows) for rows in head["row_rungs"]),
        )
        policy = Policy(
            str(head["strategy"]), limits, None if head["max_wait_s"] is None else float(head["max_wait_s"])
        )
        if policy.strategy not in PLANNERS:
            raise ValueError(f"strategy {policy.strategy!r}; there are {', '.join(PLANNERS)}")
        devices = int(head["devices"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}, line 1: {describe_read_error(error)}") from None
    return Recording(policy, devices, head, read_requests(path, lines, _request))


def _request(row: Mapping[str, Any]) -> Recorded:
    one = Recorded(
        arrival_s=float(row["arrival_s"]), tokens=int(row["tokens"]), queue_s=float(row["queue_s"]),
        latency_s=float(row["latency_s"]), pass_id=str(row["pass_id"]), pass_s=float(row["pass_s"]),
        pass_size=int(row["pass_size"]), pass_tokens=int(row["pass_tokens"]),
    )  # fmt: skip
    times = (one.arrival_s, one.queue_s, one.latency_s, one.pass_s)
    if not all(0 <= at_s < math.inf for at_s in times) or min(one.tokens, one.pass_size, one.pass_tokens) < 1:
        raise ValueError("takes times of 0 s or more, and sizes of 1 or more")
    return one
