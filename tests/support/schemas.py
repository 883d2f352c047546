"""JSON schemas that answers can be held to."""

from __future__ import annotations

from typing import Any


def kind(name: str) -> dict[str, Any]:
    """An object told apart by its property ``kind``."""
    return {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"]}


TAKEN: list[dict[str, Any]] = [
    {},
    {"title": "A", "description": "b", "default": 1, "examples": [], "x-order": 1, "$schema": "s", "$id": "i"},
    {"type": "string", "minLength": 1, "maxLength": 9},
    {"type": "string", "pattern": "^[a-z]{2,8}(-[$^a-z])?$"},
    {"type": "string", "format": "date-time"},
    {"type": ["string", "null"], "maxLength": 9},
    {"type": "string", "minimum": 3},  # says nothing of strings
    {"type": "integer", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 5},
    {"type": "number", "minimum": 0.5, "maximum": 0.5},
    {"enum": ["a", 1, None, [2]]},
    {"type": "integer", "enum": [1, 2.0]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
    {"properties": {"a": True}, "required": ["a"], "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^x[a-z]$": {"type": "integer"}}, "additionalProperties": False},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    {"allOf": [{"$ref": "#/$defs/a"}], "description": "b", "$defs": {"a": {"type": "string"}}},
    {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}, {"const": True}]},
    {"oneOf": [{"$ref": "#/$defs/a"}, kind("b")], "$defs": {"a": kind("a")}, "discriminator": {"propertyName": "kind"}},
    # A list and a tree: each ends somewhere.
    {"type": ["object", "null"], "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
    {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["children"]},
    {"$defs": {"unused": {"not": {}}}, "type": "string"},
]
