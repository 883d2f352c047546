"""What of a JSON schema is refused because nothing meets it, or because it would not be enforced."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.schemas import TAKEN, kind
from windrow.errors import InvalidInput
from windrow.scheduler.json_schema.bounds import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, require_bounded
from windrow.scheduler.json_schema.check import require_enforced
from windrow.scheduler.json_schema.cost import pattern_states


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"not": {}}, ".not: is not enforced; enforced are "),
    ({"type": "string", "nullable": True}, ".nullable: is not enforced"),
    ({"type": "array", "items": {}, "uniqueItems": True}, ".uniqueItems: is not enforced"),
    ({"if": {}, "then": {}}, ".if: is not enforced"),
    ({"properties": {"a": {"$id": "here"}}}, ".properties.a.$id: is not enforced"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, ".allOf: is enforced with one schema only"),
    ({"$ref": "https://example.org/a.json"}, ".$ref: takes a reference into this schema"),
    ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, ".$ref: there is no 'b' at '#/$defs/b'"),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}, ".$ref: takes names without '~'"),
    ({"$ref": "#/$defs", "$defs": {"a": {}}}, ".$defs.a: is not enforced"),
    ({"$ref": "#"}, ": leads back to itself before any text"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "leads back to itself"),
    ({"anyOf": []}, ".anyOf: takes an array of at least one schema"),
    ({"oneOf": []}, ".oneOf: takes an array of at least one schema"),
    ({"enum": []}, ".enum: takes an array of at least one value"),
    ({"anyOf": [{}, 3]}, ".anyOf.1: takes a schema, an object or true, not a number"),
    ({"properties": {"a": False}}, ".properties.a: false is met by nothing"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ".oneOf: an answer may meet two of its schemas"),
    ({"oneOf": [kind("a"), kind("a")]}, ".oneOf: an answer may meet two of its schemas"),
    ({"oneOf": [{"type": "string"}, {"properties": {}}]}, ".oneOf: an answer may meet two of its schemas"),
    ({"oneOf": [{"const": index} for index in range(65)]}, ".oneOf: takes at most 64 schemas, not 65"),
    ({"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {}}}, ".maxLength: is not enforced beside $ref"),
    ({"anyOf": [{}], "properties": {}}, ".properties: is not enforced beside anyOf"),
    ({"type": "string", "enum": ["a", None]}, ".enum: has null, and the type is string"),
    ({"type": "strin"}, ".type: takes one of null, boolean"),
    ({"type": []}, ".type: takes one of null, boolean"),
    ({"type": [{}]}, ".type: takes one of null, boolean"),
    ({"minLength": 3}, ".minLength: is not enforced without type beside it"),
    ({"required": ["a"]}, ".required: is not enforced without type beside it"),
    ({"type": "string", "minLength": 4, "maxLength": 3}, ".minLength: is 4, above maxLength, which is 3"),
    ({"type": "string", "maxLength": 2.5}, ".maxLength: takes a whole number from 0 to 10000"),
    ({"type": "string", "pattern": "a", "maxLength": 3}, ".maxLength: is not enforced beside pattern"),
    ({"type": "string", "format": "postcode"}, ".format: takes one of date, "),
    ({"type": "string", "pattern": "a^b"}, ".pattern: '^' and '$' are enforced at its ends alone"),
    ({"type": "string", "pattern": 'a"'}, ".pattern: takes printable ASCII without"),
    ({"type": "string", "pattern": r"a\n"}, ".pattern: '\\n' is not enforced; escapes that are: "),
    ({"type": "string", "pattern": "(?=a)b"}, ".pattern: of what begins with '(?', only '(?:' is enforced"),
    ({"type": "string", "pattern": "((a+)b)?c"}, ".pattern: a repeated group with a repetition inside"),
    ({"type": "string", "pattern": "a" * 129}, ".pattern: takes a regular expression of at most 128"),
    ({"type": "string", "pattern": "[a-z]{1,600}"}, ": its bounds, patterns and names beside"),
    ({"type": "number", "minimum": 2, "exclusiveMaximum": 2}, ".minimum: no multiple of 0.000001 is within"),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-7}, ".maximum: no multiple of 0.000001"),
    ({"type": "number", "minimum": 1e300}, ".minimum: takes a number of at most"),
    ({"type": "number", "multipleOf": 2}, ".multipleOf: is enforced where the type is integer alone"),
    ({"type": "integer", "minimum": 0.5}, ".minimum: takes a whole number where the type is integer"),
    ({"type": "integer", "multipleOf": 2, "minimum": 0}, ".multipleOf: is enforced without bounds, or with two"),
    ({"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 4}, ".minimum: no multiple of 5 is within"),
    ({"type": "array", "minItems": 1}, ".minItems: is 1, and 0 items have a schema; say items"),
    ({"type": "array", "prefixItems": [{}, {}], "maxItems": 1}, ".maxItems: is 1, and prefixItems are 2"),
    ({"type": "array", "items": [{}]}, ".items: takes a schema, an object or true, not an array"),
    ({"type": "object", "required": ["zz"], "additionalProperties": False}, ".required: 'zz' is not among properties"),
    ({"type": "object", "required": ["zz"], "additionalProperties": {}}, ".required: 'zz' is not among properties"),
    ({"properties": {"a": {}}, "minProperties": 2}, ".minProperties: is 2, and there are 1 properties"),
    ({"additionalProperties": {}, "minProperties": 2}, ".minProperties: is not enforced above 1"),
    ({"properties": {"a": {}}, "required": ["a"], "maxProperties": 0}, ".maxProperties: is 0, and 1 are required"),
    ({"properties": {"a": {}}, "patternProperties": {"b": {}}}, ".patternProperties: is enforced with one pattern"),
    ({"properties": {f"p{at}": {} for at in range(501)}}, ".properties: takes at most 500, not 501"),
    ({"properties": {f"p{at}": {} for at in range(33)}, "maxProperties": 2}, ".maxProperties: takes at most 32 prop"),
    ({"properties": {f"name{at}": {} for at in range(90)}, "additionalProperties": True}, "states, and at most 1000"),
    ({"properties": {"next": {"$ref": "#"}}, "required": ["next"]}, ": no answer that ends meets it: it needs itself"),
]  # fmt: skip


@pytest.mark.parametrize("schema", TAKEN, ids=str)
def test_what_is_enforced_is_taken(schema: dict[str, Any]) -> None:
    require_enforced(schema)


@pytest.mark.parametrize(("schema", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_is_not_enforced_is_refused_with_its_place(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        require_enforced(schema)
    assert refused.value.detail.startswith("parameters.schema")
    assert why in refused.value.detail


def test_the_place_of_an_error_is_cut() -> None:
    with pytest.raises(InvalidInput) as refused:
        require_enforced({"properties": {"a" * 20_000: {"not": {}}}})
    assert len(refused.value.detail) < 1000


def test_a_schema_is_bounded_in_bytes_and_depth() -> None:
    assert require_bounded(nested(MAX_SCHEMA_DEPTH)) == nested(MAX_SCHEMA_DEPTH)
    with pytest.raises(ValueError, match="at most 64 objects and arrays inside each other"):
        require_bounded(nested(MAX_SCHEMA_DEPTH + 1))
    with pytest.raises(ValueError, match="at most 64 objects"):
        require_bounded(nested(5000))
    letters = "x" * (MAX_SCHEMA_BYTES - len('{"const":""}'))
    assert require_bounded({"const": letters})
    with pytest.raises(ValueError, match="at most 32768 bytes of JSON, and these are 32769"):
        require_bounded({"const": letters + "x"})


@pytest.mark.parametrize(
    ("schema", "why"), [({"const": "\ud800"}, "half a surrogate pair"), ({"const": float("nan")}, "not JSON")]
)
def test_what_is_no_json_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        require_bounded(schema)


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("abc", 3),
        (r"\d{4}-\d{2}", 7),
        ("[a-z]+", 1 * (1 + 1)),
        ("[a-z]{1,100}", 100 * (1 + 1)),
        ("([a-z]{10}){100}", 1000),
        ("([a-z]{1,10}){1,10}", 100 * (1 + 10 + 1)),
        ("(a|b)c", 3 * (1 + 1)),
        ("((", 0),
        (")a{", 3),
    ],
)
def test_the_states_of_a_pattern_are_its_characters_times_its_choices(pattern: str, states: int) -> None:
    assert pattern_states(pattern) == states
