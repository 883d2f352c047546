"""Holding what clients sent against a pydantic model, with errors that name the field and what it takes."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from windrow.errors import InvalidInput
from windrow.scheduler.core.json_types import json_type

Model = TypeVar("Model", bound=BaseModel)
#: Problems that one error tells of.
MOST_PROBLEMS = 5


def whole(value: object) -> object:
    """3.0 is an integer too, to JSON Schema; what is none stays as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: 1, 2, 3, ...
Count = Annotated[int, Field(ge=1), BeforeValidator(whole)]


class Strict(BaseModel):
    """Base of what clients send: nothing is converted, and nothing unknown is let pass."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def parse(kind: type[Model], value: object, *, where: str = "", what: str = "field") -> Model:
    """Return ``value`` as a ``kind``; ``where`` names it in errors, and ``what`` is what its members are called.

    Raises `InvalidInput` naming each member that is wrong and what it takes.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)[:MOST_PROBLEMS]
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
        return f"{field}: takes at least {problem['ctx']['min_length']}, and none came"
    if problem["type"] == "too_long":
        return f"{field}: takes at most {problem['ctx']['max_length']}, and {problem['ctx']['actual_length']} came"
    if problem["type"] == "value_error":
        # One of a whole model, which has no name of its own where it is the body, names its field itself.
        return ": ".join([*([field] if field else []), str(problem["ctx"]["error"])])
    came = whole(problem["input"])  # JSON's larger integers are read as floats
    shown = f"{came!r:.60}" if isinstance(came, (str, int, float)) else json_type(came)
    message = re.sub(r"^[A-Z][a-z]+ (?=should )", "", problem["msg"])
    return f"{field}: {message}, not {shown}"
