"""What goes into the queue and comes out of it, and the two formats in which Redis keeps it.

A *record* is a request that has not ended: ``1|created_us|deadline_us|cost|tag|<tenant>:<priority>|payload``. A
*result* is Celery's own result document with a ``windrow`` object beside Celery's fields; see docs/redis-schema.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from scheduler.core.errors import Canceled, DeadlineExceeded, NewerRecord, WindrowError
from scheduler.core.outcomes import Done, Outcome

#: How the payload ends of a request that somebody follows; schema.lua looks for the same.
FOLLOWED = b',"stream":true}'


@dataclass(frozen=True, slots=True)
class Submission:
    """One request on its way into the queue."""

    id: str
    #: JSON object ``{"model", "input", "parameters"}``, encoded; see `encode_call`.
    payload: bytes
    #: Tokens it is charged for.
    cost_tokens: int = 1
    #: Seconds from the submit after which it is no longer worth starting; None for never.
    deadline_s: float | None = None
    #: HTTPS URL that is told of its end.
    webhook: str | None = None


class Claimed(NamedTuple):
    """One request held by a worker. A tuple, as `Ending` is: thousands a second are made."""

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

    @property
    def is_followed(self) -> bool:
        """Whether it has an event stream."""
        return self.payload.endswith(FOLLOWED)

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
    #: Requests wait that are only given to a process that holds nothing else; see `RedisQueue.claim`.
    suspects_wait: bool = False


class Ending(NamedTuple):
    """The end of one request, as `RedisQueue.finish` stores it."""

    id: str
    #: Of the claim that held it.
    token: str
    outcome: Outcome
    #: Redis time at which a worker started on it, in seconds since the epoch; None when it never ran.
    started_s: float | None = None
    metrics: Mapping[str, Any] | None = None


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


def encode_ending(ending: Ending) -> tuple[str, bytes]:
    """Return ``(status, head)`` for the scripts: how it ended, and the part of the result document that says so."""
    outcome = ending.outcome
    if isinstance(outcome, Done):
        result = orjson.dumps(outcome.output, option=orjson.OPT_SERIALIZE_NUMPY)
        run = orjson.dumps({"started_at": ending.started_s, "metrics": ending.metrics or {}, "error": None})
        return "succeeded", b'"status":"SUCCESS","result":%b,"windrow":{"status":"succeeded","run":%b' % (result, run)
    celery_status, status = "FAILURE", "failed"
    if isinstance(outcome.error, DeadlineExceeded):
        celery_status, status = "REVOKED", "expired"
    elif isinstance(outcome.error, Canceled):
        celery_status, status = "REVOKED", "canceled"
    run = orjson.dumps(
        {"started_at": ending.started_s, "metrics": ending.metrics or {}, "error": describe(outcome.error)}
    )
    head = b'"status":"%b","result":%b,"windrow":{"status":"%b","run":%b'
    return status, head % (celery_status.encode(), encode_exception(outcome.error), status.encode(), run)


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
            "exc_module": "celery.exceptions" if revoked else "scheduler.core.errors",
        }
    )


def parse_record(record: bytes) -> tuple[float, float | None, int, str, bytes]:
    """Return ``(created_s, deadline_s or None, cost_tokens, flow, payload)``.

    Raises `NewerRecord` for a record of another version.
    """
    if not record.startswith(b"1|"):
        raise NewerRecord("this request was taken in by another release of Windrow; ask a server of that release")
    _, created, deadline, cost, _, flow, payload = record.split(b"|", 6)
    return int(created) / 1e6, int(deadline) / 1e6 or None, int(cost), flow.decode(), payload


def parse_claim(token: str, reply: Sequence[Any]) -> Claim:
    """Build a `Claim` from the reply of claim.lua."""
    requests = []
    for id, attempts, record in zip(reply[2::3], reply[3::3], reply[4::3], strict=True):
        created_s, deadline_s, _, flow, payload = parse_record(record)
        requests.append(Claimed(id.decode(), token, int(attempts) + 1, created_s, deadline_s, flow, payload))
    return Claim(int(reply[0]) / 1e6, requests, bool(reply[1]))


def parse_dead_letter(letter: bytes) -> DeadLetter:
    """Read what reap.lua wrote."""
    said = orjson.loads(letter)
    tenant, _, priority = said["flow"].rpartition(":")
    return DeadLetter(
        id=said["id"], tenant=tenant, priority=priority, cost_tokens=said["cost"], created_s=said["created_us"] / 1e6,
        died_s=said["died_us"] / 1e6, error=said["error"], payload=orjson.dumps(said["call"]),
    )  # fmt: skip


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
        error=run["error"], metrics=run["metrics"], created_s=ours["created_us"] / 1e6, started_s=run["started_at"],
        completed_s=ours["completed_us"] / 1e6,
    )  # fmt: skip
