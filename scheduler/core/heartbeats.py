"""What a worker's heartbeat says of its progress."""

from __future__ import annotations

import json
from collections.abc import Mapping

#: A worker says every few seconds that it is there; one that was silent for so long is not counted on, in seconds.
HEARD_WITHIN_S = 15.0


def busy_s(info: bytes) -> float:
    """For how many seconds the worker has been at the same pass; 0 for an idle one, and for one too old to say.

    ``info`` is the JSON object of a heartbeat. Fields that are not known here are those of another version.
    """
    try:
        said = json.loads(info).get("busy_s", 0)
    except (ValueError, AttributeError):
        return 0.0
    return float(said) if isinstance(said, int | float) else 0.0


def is_drained(info: bytes) -> bool:
    """Whether the worker was told to claim nothing."""
    try:
        return json.loads(info).get("drained") is True
    except (ValueError, AttributeError):
        return False


def describe_failures(model: str, reasons: Mapping[str, str]) -> str:
    """Say why ``model`` could not be loaded: each of ``reasons`` (worker -> reason) once, with its first worker."""
    first: dict[str, str] = {}
    for worker, reason in reasons.items():
        first.setdefault(reason, worker)
    each = "; ".join(f"{worker}: {reason}" for reason, worker in first.items())
    return f"model {model!r} could not be loaded: {each}"


def describe_trouble(
    model: str,
    infos: Mapping[str, bytes],
    *,
    within_s: float,
    stall_s: float,
    failures: Mapping[str, str] | None = None,
) -> str | None:
    """Say why ``model`` is not served, or None where at least one worker makes progress.

    ``infos`` are the workers heard of in the last ``within_s`` seconds, with their heartbeats; one that has been at the
    same pass for longer than ``stall_s`` seconds has stalled. ``failures`` are those that could not load it, and why.
    """
    if not infos:
        if failures:
            return describe_failures(model, failures)
        return f"no worker has been heard of in the last {within_s:.0f} s for {model}"
    stalled = {worker: seconds for worker, info in infos.items() if (seconds := busy_s(info)) > stall_s}
    idle = [worker for worker, info in infos.items() if is_drained(info)]
    if len(stalled.keys() | set(idle)) < len(infos):
        return None
    if len(idle) == len(infos):
        return (
            f"every worker of {model} was told to claim nothing (`celery -A windrow.worker control resume` ends that)"
        )
    each = ", ".join(f"{worker} has been at one pass for {seconds:.0f} s" for worker, seconds in stalled.items())
    others = f"; {', '.join(idle)} claims nothing" if idle else ""
    return f"every worker of {model} has stalled: {each}{others}"
