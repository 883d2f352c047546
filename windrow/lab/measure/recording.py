"""A recorded run of a real server, request by request, to compare with a simulated run.

The file has JSON lines. The first is ``{"windrow_run": 1, "model", "strategy", "max_batch_size", "max_batch_tokens",
"max_wait_s", "buckets", "static_length", "rungs", "row_rungs", "devices", ...}``; then one line per request in order
of arrival (for models that generate, see `windrow.lab.measure.step_recording`):

| field | content |
|---|---|
| ``arrival_s`` | seconds from the first submit to this one |
| ``tokens`` | length |
| ``queue_s``, ``latency_s`` | seconds from the submit to the start of its batch and to its result, by the worker |
| ``pass_id``, ``pass_s``, ``pass_size``, ``pass_tokens`` | its batch: name, duration, requests, computed tokens |
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from windrow.lab.costs.fitting import TimedPass
from windrow.lab.costs.shared_cores import ALONE, Shared
from windrow.lab.json_values import Count, Seconds, read_as
from windrow.lab.measure import run_file
from windrow.lab.simulate.device import Policy
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.planning import PLANNERS

#: Fewest batches that started on an idle device from which a handover time is computed.
ENOUGH = 20
#: A batch that starts later than this after an arrival waited for more requests or for a core, in seconds.
WAITED_S = 0.005
#: The chores of a request may overlap with batches that start within this time after its arrival, in seconds.
BEFORE_S = 0.02


@dataclass(frozen=True, slots=True)
class Recorded(run_file.TimedRequest):
    """One request of a run; the module describes the fields."""

    tokens: Count
    queue_s: Seconds
    latency_s: Seconds
    pass_id: str
    pass_s: Seconds
    pass_size: Count
    pass_tokens: Count


@dataclass(frozen=True, slots=True)
class Recording:
    """A run: its settings, and its requests in order of arrival."""

    policy: Policy
    devices: int
    about: Mapping[str, Any]
    requests: Sequence[Recorded]

    @property
    def workload(self) -> Workload:
        """The arrivals of the run as a workload for the simulator."""
        return Workload([one.arrival_s for one in self.requests], [one.tokens for one in self.requests])

    def passes(self) -> list[TimedPass]:
        """Return each batch of the run, except those that ended no later than an earlier one, which show no duration.

        On one device, a batch that starts while others run shares the cores with them, and all share them with the
        chores of arriving requests.
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
        """Return the median time from a submit to the start of its batch when the device was idle and did not wait.

        Returns 0 if the run has too few such batches.
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
    """Write the run to a file; raises `OSError`."""
    policy, limits = recording.policy, recording.policy.limits
    head = {
        "windrow_run": run_file.VERSION, **recording.about, "devices": recording.devices, "strategy": policy.strategy,
        "max_wait_s": policy.max_wait_s, "max_batch_size": limits.max_batch_size,
        "max_batch_tokens": limits.max_batch_tokens, "buckets": limits.buckets, "static_length": limits.static_length,
        "rungs": limits.rungs, "row_rungs": limits.row_rungs,
    }  # fmt: skip
    run_file.write_lines(path, head, recording.requests)


def read_recording(path: Path) -> Recording:
    """Read a run from a file; raises `ValueError` with the file, the line and the problem."""
    lines = run_file.read_lines(path)
    try:
        head = run_file.read_head(lines)
        if head.get("task") == run_file.GENERATE:
            raise ValueError("a run of a model that generates; takes the run of a model that answers in one batch")
        found = read_as(Recording, {**head, "policy": {**head, "limits": head}, "about": head, "requests": []})
        if found.policy.strategy not in PLANNERS:
            raise ValueError(f"strategy {found.policy.strategy!r}; there are {', '.join(PLANNERS)}")
    except ValueError as error:
        raise ValueError(f"{path}, line 1: {error}") from None
    return replace(found, requests=run_file.read_requests(path, lines, Recorded))
