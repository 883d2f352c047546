"""Which JSON schemas are refused because no text meets them, or because they would not be enforced."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from tests.support.schemas import TAKEN, kind
from windrow.errors import InvalidInput
from windrow.scheduler.json_schema.bounds import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, require_bounded
from windrow.scheduler.json_schema.grammar import require_enforced


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


OVERLAP = ".oneOf: a text may meet two of its schemas"
CLOSED_A: dict[str, Any] = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"not": {}}, ".not: is not enforced; enforced are "),
    ({"type": "string", "nullable": True}, ".nullable: is not enforced"),
    ({"type": "array", "items": {}, "uniqueItems": True}, ".uniqueItems: is not enforced"),
    ({"if": {}, "then": {}}, ".if: is not enforced"),
    ({"properties": {"a": {"$id": "here"}}}, ".properties.a.$id: is not enforced"),
    ({"properties": {}, "unevaluatedProperties": False}, ".unevaluatedProperties: is not enforced"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, ".allOf: is enforced with one schema only"),
    ({"$ref": "https://example.org/a.json"}, ".$ref: takes a reference into this schema"),
    ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, ".$ref: there is no 'b' at '#/$defs/b'"),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}, ".$ref: takes names without '~'"),
    ({"$ref": "#/$defs", "$defs": {"a": {}}}, ".$defs.a: is not enforced"),
    ({"$ref": "#"}, ": leads back to itself before any text"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {}]}}}, "leads back to itself"),
    ({"anyOf": []}, ".anyOf: takes an array of at least one schema"),
    ({"oneOf": []}, ".oneOf: takes an array of at least one schema"),
    ({"enum": []}, "Unsatisfiable schema"),
    ({"anyOf": [{}, 3]}, ".anyOf.1: takes a schema, which is an object, true or false, not a number"),
    ({"properties": {"a": False}, "required": ["a"]}, "required property 'a' is unsatisfiable"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, OVERLAP),
    ({"oneOf": [kind("a"), kind("a")]}, OVERLAP),
    ({"oneOf": [{"const": 1}, {"const": 1.0}]}, OVERLAP),
    ({"oneOf": [{"type": "string"}, {"properties": {}}]}, OVERLAP),  # without a type, strings meet both
    ({"oneOf": [{"const": index} for index in range(65)]}, ".oneOf: takes at most 64 schemas, not 65"),
    ({"oneOf": [CLOSED_A, {"type": "object", "properties": {"b": {}}}]}, OVERLAP),
    ({"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {}}}, ".maxLength: is not enforced beside $ref"),
    ({"anyOf": [{}], "properties": {}}, ".properties: is not enforced beside anyOf"),
    ({"type": "strin"}, "Invalid type: strin"),
    ({"type": []}, "Unsatisfiable schema"),
    ({"type": [{}]}, "type must be a string"),
    ({"type": "string", "minLength": 4, "maxLength": 3}, "minLength (4) is greater than maxLength (3)"),
    ({"type": "string", "maxLength": 2.5}, "Expected positive integer for 'maxLength', got 2.5"),
    ({"type": "string", "format": "postcode"}, "Unknown format: postcode"),
    ({"type": "string", "pattern": "a^b"}, "lookarounds not supported yet"),
    ({"type": "string", "pattern": "(?=a)b"}, "regex parse error"),
    ({"type": "string", "pattern": "("}, "regex parse error"),
    ({"type": "number", "minimum": 2, "exclusiveMaximum": 2}, "Unsatisfiable schema: minimum"),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-7}, "Unsatisfiable schema: minimum"),
    ({"type": "number", "minimum": 1e300}, ".minimum: takes numbers from -9007199254740992 to 9007199254740992"),
    ({"enum": [{"a": 1 << 60}]}, ".enum: takes numbers from -9007199254740992"),
    ({"type": "number", "exclusiveMinimum": True}, ".exclusiveMinimum: takes a number, not a boolean"),
    ({"type": "number", "multipleOf": 0.1}, ".multipleOf: takes a whole number of at least 1"),
    ({"anyOf": [{"type": "integer", "multipleOf": at} for at in (7, 11, 13)]}, ": takes values of multipleOf whose"),
    ({"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 4}, "does not contain a multiple of 5"),
    ({"type": "array", "prefixItems": [{}, {}], "maxItems": 1}, "minItems (2) is greater than maxItems (1)"),
    ({"type": "array", "items": [{}]}, ".items: takes a schema, which is an object, true or false, not an array"),
    ({"type": "object", "required": ["zz"], "additionalProperties": False}, "'zz' is unsatisfiable"),
    ({"properties": {}, "required": ["zz"]}, "'zz' is unsatisfiable"),
    ({"properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2}, "min/maxProperties only supported when all keys"),
    ({"additionalProperties": {}, "minProperties": 2}, ".minProperties: is not enforced if several other names"),
    ({"patternProperties": {"^b": {}}, "minProperties": 2}, ".minProperties: is not enforced if several other names"),
    ({"properties": {"a": {}}, "required": ["a"], "maxProperties": 0}, "required > maxProperties"),
    ({"properties": {"a": {}}, "patternProperties": {"b": {}}}, ".patternProperties: is enforced with one pattern"),
    ({"properties": {f"p{at}": {} for at in range(501)}}, ".properties: takes at most 500, not 501"),
    ({"properties": {"next": {"$ref": "#"}}, "required": ["next"]}, ": only a text without end meets this schema"),
]  # fmt: skip


@pytest.mark.parametrize("schema", TAKEN, ids=str)
def test_an_enforced_schema_is_accepted(schema: dict[str, Any]) -> None:
    require_enforced(schema)


@pytest.mark.parametrize(("schema", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_a_schema_that_is_not_enforced_is_refused_with_the_keyword(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        require_enforced(schema)
    assert refused.value.detail.startswith("parameters.schema")
    assert why in refused.value.detail


def test_the_path_in_an_error_is_cut() -> None:
    with pytest.raises(InvalidInput) as refused:
        require_enforced({"properties": {"a" * 20_000: {"not": {}}}})
    assert len(refused.value.detail) < 1000


def test_a_schema_does_not_change_when_it_is_checked() -> None:
    schema = {"oneOf": [{"const": 1}, {"const": 2}], "$schema": "https://json-schema.org/draft/2020-12/schema"}
    require_enforced(schema)
    assert schema.keys() == {"oneOf", "$schema"}


def test_without_llguidance_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InvalidInput, match=r"pip install llguidance, or install windrow-inference\[schema\]"):
        require_enforced({"type": "string"})


def test_large_choices_of_references_are_checked_in_time() -> None:
    choices = {f"c{at}": {"enum": [f"value {at} {value:02}" for value in range(8)]} for at in range(64)}
    choice = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in choices]}
    schema = {"type": "object", "properties": {f"p{at}": choice for at in range(12)}, "$defs": choices}
    require_bounded(schema)
    began_s = time.process_time()
    require_enforced(schema)
    assert time.process_time() - began_s < 2


def test_a_schema_is_bounded_in_bytes_and_depth() -> None:
    assert require_bounded(nested(MAX_SCHEMA_DEPTH)) == nested(MAX_SCHEMA_DEPTH)
    with pytest.raises(ValueError, match="at most 64 levels of nested objects and arrays"):
        require_bounded(nested(MAX_SCHEMA_DEPTH + 1))
    with pytest.raises(ValueError, match="at most 64 levels"):
        require_bounded(nested(5000))
    letters = "x" * (MAX_SCHEMA_BYTES - len('{"const":""}'))
    assert require_bounded({"const": letters})
    with pytest.raises(ValueError, match="at most 32768 bytes of JSON, not 32769"):
        require_bounded({"const": letters + "x"})


@pytest.mark.parametrize(
    ("schema", "why"), [({"const": "\ud800"}, "half a surrogate pair"), ({"const": float("nan")}, "not JSON")]
)
def test_a_schema_that_is_not_json_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        require_bounded(schema)
