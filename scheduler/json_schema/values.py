"""Values that a JSON schema names, and whether the schemas of a ``oneOf`` are apart because of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.json_schema.types import Refused, accepted_types, is_of_type


def check_values(schema: Mapping[str, Any], keyword: str, at: str) -> None:
    """Raise `Refused` where ``const`` or ``enum`` has no values, or one that is not of the type beside it."""
    values = [schema["const"]] if keyword == "const" else schema["enum"]
    if not isinstance(values, list) or not values:
        raise Refused(f"{at}.enum", "takes an array of at least one value")
    if "type" not in schema:
        return
    types = accepted_types(schema, at)
    for value in values:
        if not any(is_of_type(value, kind) for kind in types):
            raise Refused(f"{at}.{keyword}", f"has {json_type(value)}, and the type is {' or '.join(types)}")


def are_apart(schemas: Sequence[object]) -> bool:
    """Whether it is plain that no answer meets two of them: by their types, or by a required property's values."""
    return all(_differ(one, other) for one, other in combinations(schemas, 2))


def _differ(one: object, other: object) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return values.isdisjoint(others)
    types, other_types = _types(one), _types(other)
    if types and other_types and types.isdisjoint(other_types):
        return True
    return types == other_types == {"object"} and any(
        _tells_apart(one["properties"][name], other["properties"].get(name))
        for name in set(one.get("required", ())) & set(other.get("required", ())) & one.get("properties", {}).keys()
    )


def _tells_apart(one: object, other: object) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    values, others = _values(one), _values(other)
    return values is not None and others is not None and values.isdisjoint(others)


def _values(schema: Mapping[str, Any]) -> set[str] | None:
    """What `enum` or `const` allows, comparable; None where neither is there."""
    if "const" in schema:
        return {_spelled(schema["const"])}
    return {_spelled(value) for value in schema["enum"]} if "enum" in schema else None


def _spelled(value: object) -> str:
    """Equal values alike: to JSON Schema 1.0 is 1."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: object) -> object:
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The types of an answer that meets it, an integer being a number; empty where that is not plain."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        return {json_type(value).split()[-1] for value in values}
    types = accepted_types(schema, "") if "type" in schema else []
    return {"number" if kind == "integer" else kind for kind in types}
