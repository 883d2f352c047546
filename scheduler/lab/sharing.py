"""What else ran on the lanes of a CPU while a measured pass did, and when that pass is over."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shared:
    """Times are seconds from the start of the pass."""

    #: Until when lanes were taken by passes before it, one for each of them.
    busy_s: tuple[float, ...] = ()
    #: When the next one began, from where on all lanes had something to do.
    next_s: float = math.inf


#: No other pass ran.
ALONE = Shared()


def pass_end_s(work_s: Sequence[float], shared: Shared, lanes: int, crowding: float) -> float:
    """When the last piece of a pass is over whose pieces, in this order, are of ``work_s`` on a lane that runs alone.

    As in `scheduler.lab.lanes.Lanes`, but that the times of the other passes are known.
    """
    taken_s = sorted(shared.busy_s)[-max(1, lanes - 1) :]
    line, left_s, now_s = deque(work_s), list[float](), 0.0
    while line or left_s:
        taken_s = [end_s for end_s in taken_s if end_s > now_s]
        while line and len(left_s) + len(taken_s) < lanes:
            left_s.append(line.popleft())
        busy = lanes if now_s >= shared.next_s else len(left_s) + len(taken_s)
        speed = 1.0 - (crowding * (busy - 1) / (lanes - 1) if lanes > 1 else 0.0)
        changes = [*taken_s, *([shared.next_s] if shared.next_s > now_s else [])]
        next_s = min([*changes, *([now_s + min(left_s) / speed] if left_s else [])])
        done_s = min(left_s) if left_s and next_s not in changes else (next_s - now_s) * speed
        left_s = [seconds - done_s for seconds in left_s if seconds > done_s]
        now_s = next_s
    return now_s
