"""Whether the schemas of a ``oneOf`` plainly exclude each other: by type, by value, or by a required property's value.

llguidance treats ``oneOf`` as ``anyOf`` here, so the text could otherwise meet two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from windrow.scheduler.core.json_types import json_type


@dataclass(frozen=True, slots=True)
class Outline:
    """What a value that meets a schema looks like; None for unknown."""

    #: JSON types; an integer is a number.
    types: frozenset[str] | None = None
    #: The values of ``const`` or ``enum``, as comparable texts.
    values: frozenset[str] | None = None
    #: The outlines of required properties that have values.
    properties: Mapping[str, Outline] = field(default_factory=dict)


def outline_of(schema: Any, properties: Mapping[str, Any]) -> Outline:
    """Return the outline of ``schema``; ``properties`` are the schemas of its required properties."""
    if not isinstance(schema, dict):
        return Outline()
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        types = frozenset(json_type(value).split()[-1] for value in values)
        return Outline(types, frozenset(_spelled(value) for value in values))
    if "type" not in schema:
        return Outline()
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    types = frozenset("number" if name == "integer" else name for name in names if isinstance(name, str))
    outlines = {name: outline_of(value, {}) for name, value in properties.items()}
    return Outline(types, None, {name: outline for name, outline in outlines.items() if outline.values is not None})


def exclude_each_other(outlines: Sequence[Outline]) -> bool:
    """Return whether no value can have two of the ``outlines``."""
    return all(_exclude(first, second) for first, second in combinations(outlines, 2))


def _exclude(first: Outline, second: Outline) -> bool:
    if first.values is not None and second.values is not None:
        return first.values.isdisjoint(second.values)
    if first.types is None or second.types is None:
        return False
    if first.types.isdisjoint(second.types):
        return True
    return first.types == second.types == {"object"} and any(
        _exclude(outline, second.properties[name])
        for name, outline in first.properties.items()
        if name in second.properties
    )


def _spelled(value: Any) -> str:
    """Return the same text for equal values; 1.0 equals 1 in JSON Schema."""
    return json.dumps(json.loads(json.dumps(value), parse_float=_whole), sort_keys=True)


def _whole(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
