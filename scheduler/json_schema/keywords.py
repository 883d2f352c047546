"""The keywords of JSON schemas that generated text can be held to, by the type that they apply to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windrow.scheduler.json_schema.bounds import children

#: Keywords that describe the schema and do not restrict the text.
ANNOTATIONS = frozenset(
    (
        "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
        "contentMediaType", "contentEncoding", "discriminator", "$comment", "$schema", "$defs", "definitions",
    )
)  # fmt: skip
#: Each of these describes the whole value; a schema has at most one of them.
LEADING = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
KEYWORDS_OF: dict[str, frozenset[str]] = {
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "object": frozenset(
        ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties")
    ),
}
TYPES = ("null", "boolean", "string", "number", "integer", "array", "object")
ENFORCED = frozenset(LEADING) | {"type"} | frozenset().union(*KEYWORDS_OF.values())
#: Whole numbers above this are not exact as a float, which is how numbers are compared.
MAX_NUMBER = 1 << 53
#: Larger objects take too long to check: each optional property may follow each one before it.
MAX_PROPERTIES = 500


class SchemaError(Exception):
    """Why a schema is refused; ``at`` is the path to the keyword, starting with a dot."""

    def __init__(self, at: str, reason: str) -> None:
        super().__init__(reason)
        self.at = at


def require_known(schema: Mapping[str, Any], at: str) -> None:
    """Raise `SchemaError` for a keyword that is not enforced, alone or beside the other keywords of ``schema``."""
    for keyword in schema:
        is_root_id = keyword == "$id" and not at
        if keyword not in ENFORCED | ANNOTATIONS and not keyword.startswith("x-") and not is_root_id:
            raise SchemaError(f"{at}.{keyword[:64]}", f"is not enforced; enforced are {', '.join(sorted(ENFORCED))}")
    lead = next((keyword for keyword in LEADING if keyword in schema), None)
    if lead is not None:
        for keyword in sorted(schema.keys() & ENFORCED - {lead, "type"}):
            raise SchemaError(f"{at}.{keyword}", f"is not enforced beside {lead}")


def require_exact_numbers(value: object, at: str) -> None:
    """Raise `SchemaError` if ``value`` contains a number that a float does not represent exactly."""
    if isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
        raise SchemaError(at, f"takes numbers from -{MAX_NUMBER} to {MAX_NUMBER}")
    for child in children(value):
        require_exact_numbers(child, at)
