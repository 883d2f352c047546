"""Validation of client data with pydantic; errors name the field, the wrong value and what is accepted."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from windrow.errors import InvalidInput
from windrow.scheduler.core.json_types import json_type

Model = TypeVar("Model", bound=BaseModel)
#: Upper limit of the problems that one error message lists.
MAX_PROBLEMS = 5


def whole(value: object) -> object:
    """Return 3 for 3.0, which is an integer in JSON Schema, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: An integer from 1.
Count = Annotated[int, Field(ge=1), BeforeValidator(whole)]


class Strict(BaseModel):
    """Base of the models for client data: no type conversion, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def parse(kind: type[Model], value: object, *, where: str = "", what: str = "field") -> Model:
    """Return ``value`` as a ``kind``.

    Raises `InvalidInput` with each wrong member and what it accepts. In the message, ``where`` is the name of the value
    and ``what`` the word for its members, such as ``parameter``.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)[:MAX_PROBLEMS]
        raise InvalidInput("; ".join(_explain(kind, dict(problem), where, what) for problem in problems)) from None


def _explain(kind: type[BaseModel], problem: dict[str, Any], where: str, what: str) -> str:
    names = [where] * bool(where) + [str(part)[:64] for part in problem["loc"]]
    field = ".".join(names)
    if problem["type"] == "extra_forbidden":
        if len(problem["loc"]) > 1:
            return f"{field}: unknown"
        accepted = (member.alias or name for name, member in kind.model_fields.items())
        return f"{field}: unknown {what}; accepted: {', '.join(accepted)}"
    if problem["type"] == "missing":
        return f"{field}: is missing"
    if problem["type"] == "too_short":
        return f"{field}: takes at least {problem['ctx']['min_length']}, not {problem['ctx']['actual_length']}"
    if problem["type"] == "too_long":
        return f"{field}: takes at most {problem['ctx']['max_length']}, not {problem['ctx']['actual_length']}"
    if problem["type"] == "value_error":
        # A validator of a whole model names the field in its message; a request body has no name.
        return ": ".join([*([field] if field else []), str(problem["ctx"]["error"])])
    value = whole(problem["input"])  # integers above 64 bits in JSON are parsed as floats
    shown = f"{value!r:.60}" if isinstance(value, (str, int, float)) else json_type(value)
    message = re.sub(r"^[A-Z][a-z]+ (?=should )", "", problem["msg"])
    return f"{field}: {message}, not {shown}"
