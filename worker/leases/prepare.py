"""Prepares claimed requests for an engine, and separates those that must not start any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from windrow.errors import ModelFailed
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.redis_queue import expired
from windrow.worker.engines.base import EngineBase, Prepared
from windrow.worker.leases.leases import Leases

log = logging.getLogger(__name__)


def prepare_requests(
    engine: EngineBase, requests: Sequence[Request], leases: Leases
) -> tuple[list[Request], list[Request]]:
    """Decode and prepare requests; return those that can run, and those whose input is invalid, with their outcome."""
    if not requests:
        return [], []
    claimed_s = time.monotonic()
    inputs = [request.call().get("input") for request in requests]
    parameters = [request.parameters for request in requests]
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


def prepare_inputs(
    engine: EngineBase, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]
) -> list[Prepared | Failed]:
    """Call `Engine.prepare`; if it raises for several inputs, call it for each input alone."""
    try:
        return engine.prepare(inputs, parameters)
    except Exception as error:
        log.warning(
            "model %s: preparing %d inputs raised %s", engine.info.model, len(inputs), describe_exception(error)
        )
        if len(inputs) == 1:
            return [Failed(ModelFailed(f"preparing this input raised {type(error).__name__}"))]
    return [
        prepared
        for input, options in zip(inputs, parameters, strict=True)
        for prepared in prepare_inputs(engine, [input], [options])
    ]


def split_expired(requests: Sequence[Request], leases: Leases) -> tuple[list[Request], list[Request]]:
    """Return the requests that may start, and those past their deadline, with their outcome.

    Requests that this process no longer holds, because they were canceled or their lease was lost, are in neither list.
    """
    now_s = leases.redis_now_s()
    held = [request for request in requests if leases.holds(request.id, request.token)]
    late = [request for request in held if request.deadline_s is not None and request.deadline_s <= now_s]
    if not late:
        return held, []
    late_ids = {request.id for request in late}
    waiting = [request for request in held if request.id not in late_ids]
    return waiting, [request.set_outcome(expired()) for request in late]
