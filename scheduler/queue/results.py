"""Result documents: Celery's own format, with a ``windrow`` object added; see docs/redis-schema.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from windrow.errors import Canceled, DeadlineExceeded, WindrowError
from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.scheduler.queue.request import Request


def encode_outcome(
    outcome: Outcome, started_s: float | None = None, metrics: Mapping[str, Any] | None = None
) -> tuple[str, bytes]:
    """Return the status of a finished request, and the head of its result document."""
    if isinstance(outcome, Done):
        result, error = orjson.dumps(outcome.output, option=orjson.OPT_SERIALIZE_NUMPY), None
        celery_status, status = b"SUCCESS", "succeeded"
    else:
        result, error = encode_exception(outcome.error), outcome.error
        celery_status, status = b"FAILURE", "failed"
    if isinstance(error, DeadlineExceeded):
        celery_status, status = b"REVOKED", "expired"
    elif isinstance(error, Canceled):
        celery_status, status = b"REVOKED", "canceled"
    described = None if error is None else describe(error)
    run = orjson.dumps({"started_at": started_s, "metrics": metrics or {}, "error": described})
    head = b'"status":"%b","result":%b,"windrow":{"status":"%b","run":%b' % (
        celery_status,
        result,
        status.encode(),
        run,
    )
    return status, head


def encode_document(request: Request, completed_us: int, date_done: bytes) -> tuple[str, bytes]:
    """Return the status and the result document of a finished request.

    ``date_done`` is ``completed_us`` as ISO 8601, computed once per batch. ``lua/lib/document.lua`` writes the same
    document for requests that no worker finished.
    """
    status, head = encode_outcome(request.outcome, request.started_s, request.metrics)
    document = (
        b'{"task_id":"%b",%b,"flow":"%b","created_us":%d,"completed_us":%d},"kwargs":%b,"traceback":null,"children":[],'
        b'"date_done":"%b","name":"windrow.predict"}'
    )
    created_us = round(request.created_s * 1e6)
    values = (request.id.encode(), head, request.flow.encode(), created_us, completed_us, request.payload, date_done)
    return status, document % values


def describe(error: WindrowError) -> dict[str, str]:
    """Return the ``error`` of a prediction."""
    return {"code": error.code, "detail": error.detail}


def encode_exception(error: WindrowError) -> bytes:
    """Return an exception as in Celery's JSON results, so that ``AsyncResult.get()`` raises it."""
    revoked = isinstance(error, (DeadlineExceeded, Canceled))
    return orjson.dumps(
        {
            "exc_type": "TaskRevokedError" if revoked else type(error).__name__,
            "exc_message": [error.detail],
            "exc_module": "celery.exceptions" if revoked else "windrow.errors",
        }
    )
