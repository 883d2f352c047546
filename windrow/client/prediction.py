"""`Prediction`: a request as the server describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from windrow.errors import PredictionFailed, PredictionPending


@dataclass(frozen=True, slots=True)
class Prediction:
    """The state of one request at one moment, with the fields of ``GET /v1/predictions/{id}``."""

    id: str
    model: str
    #: ``queued``, ``processing``, ``succeeded``, ``failed``, ``canceled`` or ``expired``.
    status: str
    input: Any = None
    output: Any = None
    #: ``code`` and ``detail`` of a prediction that finished without an output.
    error: Mapping[str, Any] | None = None
    #: ``queue_ms``, ``batch_wait_ms``, ``compute_ms``, ``total_ms``, ``batch_size``, ``padding_ratio`` and more.
    metrics: Mapping[str, Any] = field(default_factory=dict)
    #: Times in RFC 3339 format.
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    urls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Prediction:
        """Build a prediction from the server's JSON; ignore unknown fields. Raises `KeyError` and `TypeError`."""
        known = {name: body[name] for name in cls.__slots__ if body.get(name) is not None}
        return cls(**{"id": body["id"], "model": body["model"], "status": body["status"], **known})

    @property
    def is_ended(self) -> bool:
        """Whether the status is final."""
        return self.status not in ("queued", "processing")

    def result(self) -> Any:
        """Return the output.

        Raises `PredictionFailed` if the prediction finished without one, `PredictionPending` if it has not finished.
        """
        if self.status == "succeeded":
            return self.output
        if not self.is_ended:
            raise PredictionPending(f"prediction {self.id} is still {self.status}", code="pending")
        error = self.error or {}
        raise PredictionFailed(
            str(error.get("detail") or f"prediction {self.id} {self.status}"), code=str(error.get("code", self.status))
        )
