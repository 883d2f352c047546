"""Reads JSON values into dataclasses, with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

#: Fields of dataclasses that are read: a duration, and a number of requests or tokens.
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
T = TypeVar("T")
_adapter: Any = cache(TypeAdapter)


def read_as(kind: type[T], value: object) -> T:
    """Convert ``value`` to ``kind``. Raises `ValueError` with the field, what it takes and its value."""
    try:
        result: T = _adapter(kind).validate_python(value)
        return result
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        is_unknown = problem["type"] == "unexpected_keyword_argument"
        message = "unknown field" if is_unknown else problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r:.100})"
        raise ValueError(f"{field}: {message}{given}" if field else message) from None


def read_object(text: str, path: Path, line: int) -> Mapping[str, Any]:
    """Return the object in a line of a file. Raises `ValueError` with the file and the line."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}, line {line}: takes one JSON object per line")
    return value
