"""Requests as a worker holds them, made without Redis."""

from __future__ import annotations

from typing import Any

from windrow.scheduler.queue import Request
from windrow.worker.engines.base import Prepared


def prepared_request(
    id: str, tokens: int, data: Any = None, *, arrived_s: float = 0.0, claimed_s: float = 0.0
) -> Request:
    """A claimed request that is ready for the device."""
    request = Request(id, "token", 1, arrived_s, None, "t:normal", b"{}", 1, 2)
    request.prepared, request.arrived_s, request.claimed_s = Prepared(tokens, data), arrived_s, claimed_s
    return request
