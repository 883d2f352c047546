"""`Prediction`: a request as clients see it, read from a record or from a result document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from windrow.scheduler.queue.records import parse_record


@dataclass(frozen=True, slots=True)
class Prediction:
    """Everything that is known about one request."""

    id: str
    model: str
    #: ``queued``, ``processing``, ``succeeded``, ``failed``, ``canceled`` or ``expired``.
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
        """Whether the prediction has finished, which means that its status is a final state."""
        return self.status not in ("queued", "processing")


def waiting_prediction(
    id: str, record: bytes, payload: bytes | None, *, waits: bool, claimed_us: bytes
) -> Prediction | None:
    """Return the prediction of an unfinished request; None if it finished before its payload was read.

    ``claimed_us`` is the time of the claim that holds it; empty if no claim holds it any more.
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
    """Return the prediction of a finished request, from its result document."""
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


def prediction_json(prediction: Prediction, base_url: str) -> dict[str, Any]:
    """Return the JSON object that clients read; its URLs start with ``base_url``, which may be empty."""
    url = f"{base_url}/v1/predictions/{prediction.id}"
    return {
        "id": prediction.id,
        "model": prediction.model,
        "status": prediction.status,
        "input": prediction.input,
        "output": prediction.output,
        "error": prediction.error,
        "metrics": prediction.metrics,
        "created_at": utc(prediction.created_s),
        "started_at": utc(prediction.started_s),
        "completed_at": utc(prediction.completed_s),
        "urls": {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"},
    }


def utc(seconds: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC, in microseconds; None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
