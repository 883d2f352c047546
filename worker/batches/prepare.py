"""Prepares claimed requests for an engine, and drops those that may no longer start."""

from __future__ import annotations

import time
from collections.abc import Sequence

from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.queue import ClaimedRequest, FinishedRequest
from windrow.scheduler.queue.redis_queue import expired
from windrow.worker.batches.batch_buffer import PreparedRequest
from windrow.worker.batches.forward import prepare_inputs
from windrow.worker.engines.base import Preparer
from windrow.worker.leases.leases import Leases


def prepare_requests(
    engine: Preparer, requests: Sequence[ClaimedRequest], leases: Leases
) -> tuple[list[PreparedRequest], list[FinishedRequest]]:
    """Decode and tokenize requests; return those that can run, and those whose input failed."""
    if not requests:
        return [], []
    claimed_s = time.monotonic()
    calls = [request.call() for request in requests]
    inputs, parameters = [call.get("input") for call in calls], [call.get("parameters") or {} for call in calls]
    waiting, failed = [], []
    for request, prepared in zip(requests, prepare_inputs(engine, inputs, parameters), strict=True):
        if isinstance(prepared, Failed):
            failed.append(FinishedRequest(request, prepared, leases.redis_now_s()))
        else:
            waiting.append(PreparedRequest(request, prepared, request.created_s - leases.redis_offset_s, claimed_s))
    return waiting, failed


def split_expired(
    requests: Sequence[PreparedRequest], leases: Leases
) -> tuple[list[PreparedRequest], list[FinishedRequest]]:
    """Separate the requests that may start from those past their deadline; drop those canceled or lost."""
    now_s = leases.redis_now_s()
    held = [one for one in requests if leases.holds(one.request.id, one.request.token)]
    late = [one for one in held if one.request.deadline_s is not None and one.request.deadline_s <= now_s]
    if not late:
        return held, []
    late_ids = {one.request.id for one in late}
    waiting = [one for one in held if one.request.id not in late_ids]
    return waiting, [FinishedRequest(one.request, expired()) for one in late]
