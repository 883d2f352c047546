"""Prepares claimed requests for an engine, and drops those that may no longer start."""

from __future__ import annotations

import time
from collections.abc import Sequence

from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.redis_queue import expired
from windrow.worker.batches.forward import prepare_inputs
from windrow.worker.engines.base import EngineBase
from windrow.worker.leases.leases import Leases


def prepare_requests(
    engine: EngineBase, requests: Sequence[Request], leases: Leases
) -> tuple[list[Request], list[Request]]:
    """Decode and tokenize requests; return those that can run, and those whose input failed."""
    if not requests:
        return [], []
    claimed_s = time.monotonic()
    inputs, parameters = [request.call().get("input") for request in requests], [one.parameters for one in requests]
    offset_s = leases.redis_offset_s
    waiting, failed = [], []
    for request, prepared in zip(requests, prepare_inputs(engine, inputs, parameters), strict=True):
        if isinstance(prepared, Failed):
            failed.append(request.set_outcome(prepared, leases.redis_now_s()))
        else:
            request.prepared = prepared
            request.arrived_s, request.claimed_s = request.created_s - offset_s, claimed_s
            waiting.append(request)
    return waiting, failed


def split_expired(requests: Sequence[Request], leases: Leases) -> tuple[list[Request], list[Request]]:
    """Separate the requests that may start from those past their deadline; drop those canceled or lost."""
    now_s = leases.redis_now_s()
    held = [one for one in requests if leases.holds(one.id, one.token)]
    late = [one for one in held if one.deadline_s is not None and one.deadline_s <= now_s]
    if not late:
        return held, []
    late_ids = {one.id for one in late}
    waiting = [one for one in held if one.id not in late_ids]
    return waiting, [one.set_outcome(expired()) for one in late]
