"""A prediction as clients read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from windrow.scheduler.queue.records import Prediction


def prediction_json(prediction: Prediction, base_url: str) -> dict[str, Any]:
    """The JSON object of ``prediction``; its URLs start with ``base_url``, which has no last slash and may be empty."""
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
    """ISO 8601 in UTC, to the microsecond; None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
