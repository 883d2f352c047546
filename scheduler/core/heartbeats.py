"""`Heartbeat`: what a worker reports every few seconds about a model that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import orjson

#: A worker without a heartbeat for this long does not count as serving, in seconds.
HEARD_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One report of one worker about one model. A field that a worker does not report has its default."""

    model: str | None = None
    task: str | None = None
    #: The following describe the loaded model; see `windrow.worker.engines.base.EngineInfo`.
    strategy: str | None = None
    strategy_note: str | None = None
    device: str | None = None
    dtype: str | None = None
    dtype_note: str | None = None
    max_input_tokens: int | None = None
    relative_error: float | None = None
    is_captured: bool = False
    max_sequences: int | None = None
    pages: int | None = None
    page_tokens: int | None = None
    #: Seconds that the worker's loop has spent on its present batch or step; 0 for an idle worker.
    busy_s: float = 0.0
    #: Requests that the worker holds.
    held: int = 0
    #: The worker is drained: it claims no requests.
    drained: bool = False
    #: Result of the last reload of the model.
    reload_note: str | None = None
    #: Fraction (0 to 1) of the time since the last heartbeat in which the device computed for the model.
    device_busy_ratio: float | None = None
    #: Longest time that a batch buffer collects requests at present, in milliseconds.
    wait_ms: float | None = None
    #: Size of the smallest batch that ran out of memory, in tokens.
    ran_out_tokens: int | None = None
    #: KV-cache pages in use, and sequences preempted since the model was loaded.
    pages_taken: int | None = None
    preemptions: int | None = None

    def encode(self) -> bytes:
        """Return the heartbeat as a JSON object."""
        return orjson.dumps(asdict(self))


_JSON_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
#: Field of a heartbeat -> the types that JSON may have for it.
_FIELD_TYPES = {field.name: _JSON_TYPES[str(field.type).partition(" ")[0]] for field in fields(Heartbeat)}


def decode_heartbeat(info: bytes) -> Heartbeat | None:
    """Read a heartbeat of this or another version; None if it is not a JSON object or a field has a wrong type.

    Unknown fields are ignored, and missing or null ones have their default.
    """
    try:
        values = orjson.loads(info)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    known = {name: values[name] for name in _FIELD_TYPES if values.get(name) is not None}
    if not all(isinstance(value, _FIELD_TYPES[name]) for name, value in known.items()):
        return None
    return Heartbeat(**known)


def describe_failures(model: str, reasons: Mapping[str, str]) -> str:
    """Say why ``model`` could not be loaded: each of ``reasons`` (worker -> reason) once, with its first worker."""
    first: dict[str, str] = {}
    for worker, reason in reasons.items():
        first.setdefault(reason, worker)
    each = "; ".join(f"{worker}: {reason}" for reason, worker in first.items())
    return f"model {model!r} could not be loaded: {each}"


def describe_trouble(
    model: str,
    heartbeats: Mapping[str, Heartbeat],
    *,
    within_s: float,
    stall_s: float,
    failures: Mapping[str, str] | None = None,
) -> str | None:
    """Say why ``model`` is not served; None if at least one worker makes progress.

    ``heartbeats`` are those of the last ``within_s`` seconds by worker. A worker that has spent more than ``stall_s``
    seconds on one batch has stalled. ``failures`` are the workers that could not load the model, with the reasons.
    """
    if not heartbeats:
        if failures:
            return describe_failures(model, failures)
        return f"no worker has sent a heartbeat for {model} in the last {within_s:.0f} s"
    stalled = {worker: beat.busy_s for worker, beat in heartbeats.items() if beat.busy_s > stall_s}
    drained = [worker for worker, beat in heartbeats.items() if beat.drained]
    if len(stalled.keys() | set(drained)) < len(heartbeats):
        return None
    if len(drained) == len(heartbeats):
        return f"every worker of {model} is drained; `celery -A windrow.worker control resume` lets them claim again"
    each = ", ".join(f"{worker} has spent {seconds:.0f} s on one batch" for worker, seconds in stalled.items())
    others = f"; drained: {', '.join(drained)}" if drained else ""
    return f"every worker of {model} has stalled: {each}{others}"
