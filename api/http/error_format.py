"""Error formats: how a route's errors look to its clients. Every route declares one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import orjson
from pydantic import BaseModel, Field


class Problem(BaseModel):
    """An error as application/problem+json (RFC 9457)."""

    type: str = Field(examples=["urn:windrow:error:unknown_model"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["unknown_model"])


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """The body, statuses and codes of the errors of a group of routes."""

    content_type: str
    #: The body, as the OpenAPI document describes it.
    schema: type[BaseModel]
    #: Encodes the body: (status, title, detail, code) -> JSON.
    encode: Callable[[int, str, str, str], bytes]
    #: Statuses that differ from those of `windrow.api.http.errors.ERRORS`.
    statuses: Mapping[int, int] = field(default_factory=dict)
    #: Codes that differ from those of the error classes; `encode` applies them.
    codes: Mapping[str, str] = field(default_factory=dict)
    #: Headers that tell a client not to send the call again.
    no_retry_headers: Mapping[str, str] = field(default_factory=dict)


def problem_json(status: int, title: str, detail: str, code: str) -> bytes:
    """Encode a `Problem`."""
    members = {"type": f"urn:windrow:error:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return orjson.dumps(members)


PROBLEM = ErrorFormat("application/problem+json", Problem, problem_json)
