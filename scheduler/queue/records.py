"""What goes into the queue and comes out of it, and the two formats in which Redis keeps it.

A *record* is a request that has not ended: ``1|created_us|deadline_us|cost|tag|<tenant>:<priority>|payload``. A
*result* is Celery's own result document with a ``windrow`` object beside Celery's fields; see docs/redis-schema.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from scheduler.core.errors import Canceled, DeadlineExceeded, WindrowError
from scheduler.core.outcomes import Done, Outcome


@dataclass(frozen=True, slots=True)
class Submission:
    """One request on its way into the queue."""

    id: str
    #: JSON object ``{"model", "input", "parameters"}``, encoded.
    payload: bytes
    #: Tokens it is charged for.
    cost_tokens: int = 1
    #: Seconds from the submit after which it is no longer worth starting; None for never.
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """One request held by a worker."""

    id: str
    #: Proves which claim holds it; `RedisQueue.finish` asks for it back.
    token: str
    #: Counted from 1.
    attempt: int
    #: Redis time of the submit, in seconds since the epoch.
    created_s: float
    #: Redis time after which it is not to be started, in seconds since the epoch; None for never.
    deadline_s: float | None
    #: ``<tenant>:<priority>``
    flow: str
    payload: bytes

    def call(self) -> dict[str, Any]:
        """The decoded payload: ``model``, ``input``, ``parameters``."""
        call: dict[str, Any] = orjson.loads(self.payload)
        return call


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim got, in fair order."""

    #: Redis time of the claim, in seconds since the epoch.
    now_s: float
    requests: list[Claimed]


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one request, as `RedisQueue.finish` stores it."""

    id: str
    #: Of the claim that held it.
    token: str
    outcome: Outcome
    #: Redis time at which a worker started on it, in seconds since the epoch; None when it never ran.
    started_s: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


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


def encode_ending(ending: Ending) -> tuple[str, bytes, str, bytes]:
    """Return ``(Celery status, result JSON, status, run JSON)`` for the scripts."""
    outcome = ending.outcome
    if isinstance(outcome, Done):
        result = orjson.dumps(outcome.output, option=orjson.OPT_SERIALIZE_NUMPY)
        return "SUCCESS", result, "succeeded", encode_run(None, ending.started_s, ending.metrics)
    celery_status, status = "FAILURE", "failed"
    if isinstance(outcome.error, DeadlineExceeded):
        celery_status, status = "REVOKED", "expired"
    run = encode_run(outcome.error, ending.started_s, ending.metrics)
    return celery_status, encode_exception(outcome.error), status, run


def encode_run(error: WindrowError | None, started_s: float | None, metrics: Mapping[str, Any]) -> bytes:
    """The ``run`` object of a result: when it started, what it measured, how it failed."""
    problem = None if error is None else {"code": error.code, "detail": error.detail}
    return orjson.dumps({"started_at": started_s, "metrics": metrics, "error": problem})


def encode_exception(error: WindrowError) -> bytes:
    """An exception as Celery's JSON results carry it, so that ``AsyncResult.get()`` raises the like."""
    revoked = isinstance(error, (DeadlineExceeded, Canceled))
    return orjson.dumps(
        {
            "exc_type": "TaskRevokedError" if revoked else type(error).__name__,
            "exc_message": [error.detail],
            "exc_module": "celery.exceptions" if revoked else "scheduler.core.errors",
        }
    )


def parse_record(record: bytes) -> tuple[float, float | None, int, str, bytes]:
    """Return ``(created_s, deadline_s or None, cost_tokens, flow, payload)``.

    Raises `ValueError` for a record of another version.
    """
    version, created, deadline, cost, _, flow, payload = record.split(b"|", 6)
    if version != b"1":
        raise ValueError(f"record of version {version!r}; this release reads version 1")
    return int(created) / 1e6, int(deadline) / 1e6 or None, int(cost), flow.decode(), payload


def parse_claim(token: str, reply: Sequence[Any]) -> Claim:
    """Build a `Claim` from the reply of claim.lua."""
    now_s = int(reply[0]) / 1e6
    requests = []
    for at in range(1, len(reply), 3):
        created_s, deadline_s, _, flow, payload = parse_record(reply[at + 2])
        attempt = int(reply[at + 1]) + 1
        requests.append(Claimed(reply[at].decode(), token, attempt, created_s, deadline_s, flow, payload))
    return Claim(now_s, requests)


def waiting_prediction(id: str, record: bytes, status: str) -> Prediction:
    """The view of a request that has not ended."""
    created_s, _, _, flow, payload = parse_record(record)
    tenant, _, priority = flow.rpartition(":")
    call = orjson.loads(payload)
    return Prediction(
        id=id, model=call["model"], status=status, tenant=tenant, priority=priority, input=call["input"],
        parameters=call.get("parameters") or {}, output=None, error=None, metrics={}, created_s=created_s,
        started_s=None, completed_s=None,
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
        error=run["error"], metrics=run["metrics"], created_s=ours["created_at"], started_s=run["started_at"],
        completed_s=ours["completed_at"],
    )  # fmt: skip
