"""When a measured batch on a CPU ends, given what else ran on the cores."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shared:
    """Other work on the cores; times are seconds from the start of the batch."""

    #: End time of each earlier batch that still occupied a core.
    busy_s: tuple[float, ...] = ()
    #: Start of the next batch, from which on all cores were busy.
    next_s: float = math.inf
    #: Arrival times of requests, increasing; includes arrivals shortly before the batch.
    came_s: tuple[float, ...] = ()


#: Nothing else ran.
ALONE = Shared()


def pass_end_s(work_s: Sequence[float], shared: Shared, lanes: int, chore_s: float) -> float:
    """Return when the last piece of a batch ends; ``work_s`` has the time of each piece on an idle core, in order.

    Follows the rules of `windrow.lab.costs.cpu_cores.CpuCores`, with known times of the other batches.
    """
    taken_s = sorted(shared.busy_s)[-max(1, lanes - 1) :]
    line, left_s, chores_s = deque(work_s), list[float](), list[float]()
    coming = deque(shared.came_s if chore_s else ())
    now_s = min(0.0, coming[0]) if coming else 0.0
    while line or left_s:
        taken_s = [end_s for end_s in taken_s if end_s > now_s]
        while coming and coming[0] <= now_s:
            coming.popleft()
            chores_s.append(chore_s)
        while now_s >= 0 and line and len(left_s) + len(taken_s) < lanes:
            left_s.append(line.popleft())
        busy = lanes if now_s >= shared.next_s else len(left_s) + len(taken_s)
        speed = min(1.0, lanes / max(1, busy + len(chores_s)))
        changes = [*taken_s, *list(coming)[:1], *(at_s for at_s in (0.0, shared.next_s) if at_s > now_s)]
        working_s = left_s + chores_s
        next_s = min([*changes, *([now_s + min(working_s) / speed] if working_s else [])])
        done_s = min(working_s) if working_s and next_s not in changes else (next_s - now_s) * speed
        left_s = [seconds - done_s for seconds in left_s if seconds > done_s]
        chores_s = [seconds - done_s for seconds in chores_s if seconds > done_s]
        now_s = next_s
    return now_s
