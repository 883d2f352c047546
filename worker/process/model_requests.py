"""Model changes requested by ``celery control``, in memory shared by the parent and its pool processes.

Only the parent process writes, and it writes everything at once; a reader that overlaps with a write reads again. A
restarted pool process finds the earlier requests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import billiard
import orjson

#: Size of the shared buffer; more than the models of any worker need.
BUFFER_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Batching:
    """New batch limits of one model."""

    max_batch_size: int
    #: None if the window is learned.
    max_wait_s: float | None


@dataclass(frozen=True, slots=True)
class ModelRequests:
    """Everything requested since the worker started."""

    #: By model. A model without an entry uses its settings.
    batching: dict[str, Batching] = field(default_factory=dict)
    #: Model -> number of reloads requested.
    reloads: dict[str, int] = field(default_factory=dict)


# Allocated before the fork, so that pool processes share it.
_TEXT = billiard.RawArray("c", BUFFER_BYTES)
#: Odd during a write.
_VERSION = billiard.RawValue("L", 0)


def version() -> int:
    """Return a number that changes with each request."""
    return int(_VERSION.value)


def read_model_requests() -> ModelRequests:
    """Return everything requested so far."""
    while True:
        before, text = version(), bytes(_TEXT.value)
        if before % 2 == 0 and before == version():
            stored = orjson.loads(text) if text else {"batching": {}, "reloads": {}}
            batching = {model: Batching(**limits) for model, limits in stored["batching"].items()}
            return ModelRequests(batching, stored["reloads"])


def set_batching(model: str, batching: Batching) -> None:
    """Request new batch limits. Call it only from the parent's thread that answers remote control."""
    requests = read_model_requests()
    _write(ModelRequests(requests.batching | {model: batching}, requests.reloads))


def request_reload(model: str) -> None:
    """Request a reload of ``model``; same thread as `set_batching`."""
    requests = read_model_requests()
    _write(ModelRequests(requests.batching, requests.reloads | {model: requests.reloads.get(model, 0) + 1}))


def _write(requests: ModelRequests) -> None:
    text = orjson.dumps(asdict(requests))
    if len(text) >= BUFFER_BYTES:
        raise ValueError(f"the requests for all models take {len(text)} bytes; the limit is {BUFFER_BYTES}")
    _VERSION.value += 1
    _TEXT.value = text
    _VERSION.value += 1
