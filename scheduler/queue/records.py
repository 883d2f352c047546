"""Records of unfinished requests in Redis, and the payloads beside them; ``lua/schema.lua`` documents the format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from windrow.errors import NewerRecord


def encode_call(model: str, input: Any, parameters: Mapping[str, Any], *, is_followed: bool = False) -> bytes:
    """Return the payload of a submission; raises `TypeError` for values that JSON cannot represent."""
    call = {"model": model, "input": input, "parameters": parameters}
    return orjson.dumps(call | {"stream": True} if is_followed else call)


class Record(NamedTuple):
    """What Redis keeps about an unfinished request."""

    #: Redis times, in seconds since the epoch.
    created_s: float
    deadline_s: float | None
    cost_tokens: int
    #: ``<tenant>:<priority>``
    flow: str
    #: Length of the payload.
    size_bytes: int


def is_ours(record: bytes) -> bool:
    """Return whether a record has the version of this release."""
    return record.startswith(b"3|")


def parse_record(record: bytes) -> Record:
    """Read a record. Raises `NewerRecord` for one of another version."""
    if not is_ours(record):
        raise NewerRecord("this request was accepted by another release of Windrow; ask a server of that release")
    _, _, cost, flow, size, created, deadline, _ = record.split(b"|")
    return Record(int(created) / 1e6, int(deadline) / 1e6 or None, int(cost), flow.decode(), int(size))
