"""JSON schemas that generated text can be held to."""

from __future__ import annotations

from typing import Any


def kind(name: str) -> dict[str, Any]:
    """An object that is distinguished by its property ``kind``."""
    return {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"]}


EXPRESSION = {
    "oneOf": [{"$ref": "#/$defs/number"}, {"$ref": "#/$defs/sum"}],
    "discriminator": {"propertyName": "kind"},
}

TAKEN: list[dict[str, Any]] = [
    {},
    {"title": "A", "description": "b", "default": 1, "examples": [], "x-order": 1, "$schema": "s", "$id": "i"},
    {"x-guidance": {"lenient": True, "whitespace_flexible": True}, "type": "array", "items": {"type": "null"}},
    {"type": "string", "minLength": 1, "maxLength": 9},
    {"type": "string", "pattern": "^[a-z]{2,8}(-[$^a-z])?$"},
    {"type": "string", "pattern": "a|bc", "minLength": 2},
    {"type": "string", "pattern": r"^\w\$$"},
    {"type": "string", "pattern": 'a"\\n((b+)c)?'},
    {"type": "string", "format": "date-time"},
    {"type": ["string", "null"], "maxLength": 9},
    {"type": "string", "minimum": 3},  # does not restrict strings
    {"type": "string", "enum": ["a", None]},
    {"type": "integer", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 5},
    {"type": "integer", "minimum": 0.5, "multipleOf": 2},
    {"type": "number", "minimum": 0.5, "maximum": 0.5},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    {"type": "number", "minimum": -0.014, "exclusiveMaximum": 0},
    {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 2, "description": "nothing but decimals"},
    {"enum": ["a", 1, None, [2], 1.5, {"a": True}]},
    {"type": "integer", "enum": [1, 2.0]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
    {"type": "array", "prefixItems": [{"type": "integer"}, {}]},
    {"properties": {"a": True}, "required": ["a"], "additionalProperties": {"type": "integer"}},
    {"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": False}},
    {"type": "object", "required": ["zz"], "additionalProperties": {"type": "integer"}, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^x[a-z]$": {"type": "integer"}}, "additionalProperties": False},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    {"allOf": [{"$ref": "#/$defs/a"}], "description": "b", "$defs": {"a": {"type": "string"}}},
    {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}, {"const": True}]},
    {"oneOf": [{"const": 1}, {"const": "1"}, {"enum": [1.5, 2, [1]]}]},
    {"oneOf": [{"type": "object", "properties": {"v": {"const": v}}, "required": ["v"]} for v in (1, 2, "2")]},
    {"oneOf": [{"$ref": "#/$defs/a"}, kind("b")], "$defs": {"a": kind("a")}, "discriminator": {"propertyName": "kind"}},
    # A list and two trees, which need not be infinite.
    {"type": ["object", "null"], "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
    {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["children"]},
    {
        **EXPRESSION,
        "$defs": {
            "number": kind("number"),
            "sum": {
                "type": "object",
                "properties": {"kind": {"const": "sum"}, "left": EXPRESSION, "right": EXPRESSION},
                "required": ["kind", "left", "right"],
            },
        },
    },
    {"$defs": {"unused": {"not": {}}}, "type": "string"},
]
