"""Reads JSON values into dataclasses, with errors that name the field."""

from __future__ import annotations

from functools import cache
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
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r:.100})"
        raise ValueError(f"{field}: {message}{given}" if field else message) from None
