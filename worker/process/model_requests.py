"""What ``celery control`` asked of the models of this worker, in memory that its pool processes share.

The parent alone writes, whole; who reads while it does reads again. A pool process that is started anew finds it there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import billiard
import orjson

#: More than any worker's models need.
ROOM_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Batching:
    """How rows of one model are put together from now on."""

    max_batch_size: int
    #: None where it is learnt.
    max_wait_s: float | None


@dataclass(frozen=True, slots=True)
class ModelRequests:
    """All that was asked since the worker began."""

    #: By model; those that are not in it are as their settings say.
    batching: dict[str, Batching] = field(default_factory=dict)
    #: Model -> how often it was to be loaded anew.
    reloads: dict[str, int] = field(default_factory=dict)


# Made before the fork.
_TEXT = billiard.RawArray("c", ROOM_BYTES)
#: Odd while the text is being written.
_VERSION = billiard.RawValue("L", 0)


def version() -> int:
    """A number that is another one once anything was asked."""
    return int(_VERSION.value)


def read_model_requests() -> ModelRequests:
    """What was asked so far."""
    while True:
        before, text = version(), bytes(_TEXT.value)
        if before % 2 == 0 and before == version():
            said = orjson.loads(text) if text else {"batching": {}, "reloads": {}}
            return ModelRequests({model: Batching(**one) for model, one in said["batching"].items()}, said["reloads"])


def set_batching(model: str, batching: Batching) -> None:
    """Ask for it. For the parent's one thread that answers remote control."""
    orders = read_model_requests()
    _write(ModelRequests(orders.batching | {model: batching}, orders.reloads))


def request_reload(model: str) -> None:
    """Ask that ``model`` be loaded anew; see `set_batching`."""
    orders = read_model_requests()
    _write(ModelRequests(orders.batching, orders.reloads | {model: orders.reloads.get(model, 0) + 1}))


def _write(orders: ModelRequests) -> None:
    text = orjson.dumps(asdict(orders))
    if len(text) >= ROOM_BYTES:
        raise ValueError(f"the orders for all models take {len(text)} bytes; there is room for {ROOM_BYTES}")
    _VERSION.value += 1
    _TEXT.value = text
    _VERSION.value += 1
