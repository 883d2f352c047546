"""What goes into the queue and comes out of it, and the two formats in which Redis keeps it.

A *record* is a request that has not ended: schema.lua says what stands in it;
its payload stands beside it. A *result* is Celery's own result document with a ``windrow`` object beside Celery's
fields; see docs/redis-schema.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from windrow.errors import Canceled, DeadlineExceeded, NewerRecord, WindrowError
from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.scheduler.queue.request import Request


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that was given up, with everything needed to send it again."""

    id: str
    tenant: str
    priority: str
    cost_tokens: int
    #: Redis times in seconds since the epoch.
    created_s: float
    died_s: float
    #: ``{"code", "detail"}``
    error: Mapping[str, str]
    #: JSON object ``{"model", "input", "parameters"}``, encoded.
    payload: bytes

    def call(self) -> dict[str, Any]:
        """The decoded payload: ``model``, ``input``, ``parameters``."""
        call: dict[str, Any] = orjson.loads(self.payload)
        return call


@dataclass(frozen=True, slots=True)
class Prediction:
    """Everything that is known of one request."""

    id: str
    model: str
    #: queued, processing, succeeded, failed, canceled or expired
    status: str
    tenant: str
    priority: str
    input: Any
    parameters: Mapping[str, Any]
    output: Any
    #: ``{"code", "detail"}``, or None
    error: Mapping[str, str] | None
    metrics: Mapping[str, Any]
    #: Redis times in seconds since the epoch.
    created_s: float
    started_s: float | None
    completed_s: float | None

    @property
    def is_ended(self) -> bool:
        """Whether the status can still change."""
        return self.status not in ("queued", "processing")


def encode_call(model: str, input: Any, parameters: Mapping[str, Any], *, is_followed: bool = False) -> bytes:
    """The payload of a submission; raises `TypeError` for what JSON cannot spell."""
    call = {"model": model, "input": input, "parameters": parameters}
    return orjson.dumps(call | {"stream": True} if is_followed else call)


def encode_outcome(
    outcome: Outcome, started_s: float | None = None, metrics: Mapping[str, Any] | None = None
) -> tuple[str, bytes]:
    """How a request ended, and the part of its result document that says so; see `Request`."""
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
    said = None if error is None else describe(error)
    run = orjson.dumps({"started_at": started_s, "metrics": metrics or {}, "error": said})
    head = b'"status":"%b","result":%b,"windrow":{"status":"%b","run":%b' % (
        celery_status,
        result,
        status.encode(),
        run,
    )
    return status, head


def encode_document(request: Request, completed_us: int, date_done: bytes) -> tuple[str, bytes]:
    """Return the status of a finished request and its whole result document; schema.lua writes the same elsewhere.

    ``date_done`` is ``completed_us`` in ISO 8601, which all of a batch share.
    """
    status, head = encode_outcome(request.outcome, request.started_s, request.metrics)
    document = (
        b'{"task_id":"%b",%b,"flow":"%b","created_us":%d,"completed_us":%d},"kwargs":%b,"traceback":null,"children":[],'
        b'"date_done":"%b","name":"windrow.predict"}'
    )
    created_us = round(request.created_s * 1e6)
    said = (request.id.encode(), head, request.flow.encode(), created_us, completed_us, request.payload, date_done)
    return status, document % said


def describe(error: WindrowError) -> dict[str, str]:
    """The ``error`` of a prediction."""
    return {"code": error.code, "detail": error.detail}


def encode_exception(error: WindrowError) -> bytes:
    """An exception as Celery's JSON results carry it, so that ``AsyncResult.get()`` raises the like."""
    revoked = isinstance(error, (DeadlineExceeded, Canceled))
    return orjson.dumps(
        {
            "exc_type": "TaskRevokedError" if revoked else type(error).__name__,
            "exc_message": [error.detail],
            "exc_module": "celery.exceptions" if revoked else "windrow.errors",
        }
    )


class Record(NamedTuple):
    """What the queue keeps of a request that has not ended; see schema.lua."""

    #: Redis times, in seconds since the epoch.
    created_s: float
    deadline_s: float | None
    cost_tokens: int
    #: ``<tenant>:<priority>``
    flow: str
    #: Of the payload.
    size_bytes: int


def is_ours(record: bytes) -> bool:
    """Whether it is of the version that this release keeps."""
    return record.startswith(b"3|")


def parse_record(record: bytes) -> Record:
    """Read a record. Raises `NewerRecord` for one of another version."""
    if not is_ours(record):
        raise NewerRecord("this request was taken in by another release of Windrow; ask a server of that release")
    _, _, cost, flow, size, created, deadline, _ = record.split(b"|")
    return Record(int(created) / 1e6, int(deadline) / 1e6 or None, int(cost), flow.decode(), int(size))


def parse_dead_letter(letter: bytes) -> DeadLetter:
    """Read what reap.lua wrote."""
    said = orjson.loads(letter)
    tenant, _, priority = said["flow"].rpartition(":")
    return DeadLetter(
        id=said["id"], tenant=tenant, priority=priority, cost_tokens=said["cost"], created_s=said["created_us"] / 1e6,
        died_s=said["died_us"] / 1e6, error=said["error"], payload=orjson.dumps(said["call"]),
    )  # fmt: skip


def waiting_prediction(
    id: str, record: bytes, payload: bytes | None, *, waits: bool, claimed_us: bytes
) -> Prediction | None:
    """The view of a request that has not ended; None where it ended before its payload was read.

    ``claimed_us`` is when the claim was made that holds it, empty where that is over by now.
    """
    created_s, _, _, flow, _ = parse_record(record)
    if payload is None:
        return None
    tenant, _, priority = flow.rpartition(":")
    call = orjson.loads(payload)
    return Prediction(
        id=id, model=call["model"], status="queued" if waits else "processing", tenant=tenant, priority=priority,
        input=call["input"], parameters=call.get("parameters") or {}, output=None, error=None, metrics={},
        created_s=created_s, started_s=int(claimed_us) / 1e6 if claimed_us else None, completed_s=None,
    )  # fmt: skip


def ended_prediction(result: bytes) -> Prediction:
    """The view of a request that has ended, from its result document."""
    document = orjson.loads(result)
    call, ours = document["kwargs"], document["windrow"]
    tenant, _, priority = ours["flow"].rpartition(":")
    run = ours["run"]
    succeeded = ours["status"] == "succeeded"
    return Prediction(
        id=document["task_id"], model=call["model"], status=ours["status"], tenant=tenant, priority=priority,
        input=call["input"], parameters=call.get("parameters") or {}, output=document["result"] if succeeded else None,
        error=run["error"], metrics=run["metrics"], created_s=ours["created_us"] / 1e6, started_s=run["started_at"],
        completed_s=ours["completed_us"] / 1e6,
    )  # fmt: skip
