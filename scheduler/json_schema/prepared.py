"""Prepare a JSON schema for llguidance: refuse what it would ignore, and write out what it would read differently.

llguidance ignores keywords that it does not know. It follows the specification if a keyword is missing: a schema with
``properties`` only allows a number, and objects with other properties. Here the missing keywords are added, and schemas
that only an endless text meets are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.json_schema.bounds import MAX_COMMON_MULTIPLE
from windrow.scheduler.json_schema.exclusion import Outline, exclude_each_other, outline_of
from windrow.scheduler.json_schema.keywords import (
    ENFORCED,
    KEYWORDS_OF,
    LEADING,
    MAX_PROPERTIES,
    TYPES,
    SchemaError,
    require_exact_numbers,
    require_known,
)

#: Every two schemas of a ``oneOf`` are compared.
MAX_ONE_OF = 64
OVERLAP = (
    "a text may meet two of its schemas, which is not enforced; give each another type, or a required property with a "
    "const of its own, or use anyOf"
)
#: Distance from an exclusive bound that is a whole number.
NUMBER_STEP = 1e-6


def prepared_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``schema`` for llguidance. Raises `SchemaError` for the first keyword that is not enforced.

    ``schema`` passed `bounds.require_bounded`.
    """
    root: dict[str, Any] = json.loads(json.dumps(schema))
    _Walk(root).run()
    return root


@dataclass
class _Walk:
    """All schemas that the text may be held to, by identity; each is changed in place."""

    root: dict[str, Any]
    places: dict[int, str] = field(default_factory=dict)
    #: For each schema, lists of schemas: its text is finite if the texts of all schemas in one list are.
    finite_if: dict[int, list[list[int]]] = field(default_factory=dict)
    #: For each schema, those that the same text may be held to.
    same_text: dict[int, list[int]] = field(default_factory=dict)
    multiples: list[int] = field(default_factory=list)
    _todo: list[Any] = field(default_factory=list)
    #: The schemas of each ``oneOf``, and its path.
    _one_of: list[tuple[list[Any], str]] = field(default_factory=list)
    #: Schemas whose ``type`` was added here.
    _typed: set[int] = field(default_factory=set)

    def run(self) -> None:
        self._visit(self.root, "")
        while self._todo:
            schema = self._todo.pop()
            if isinstance(schema, bool):
                self.finite_if[id(schema)] = [[]]
            else:
                self.finite_if[id(schema)] = self._read(schema, self.places[id(schema)])
        try:
            TopologicalSorter(self.same_text).prepare()
        except CycleError as error:
            at = self.places[error.args[1][0]]
            raise SchemaError(at, "leads back to itself before any text; nothing says what the text is") from None
        self._require_finite()
        if math.lcm(*self.multiples) > MAX_COMMON_MULTIPLE:
            raise SchemaError(
                "", f"takes values of multipleOf whose least common multiple is at most {MAX_COMMON_MULTIPLE}"
            )  # fmt: skip
        self._require_exclusive()

    def _visit(self, schema: object, at: str) -> int:
        """Queue ``schema`` to be read, unless it was; return its identity."""
        if not isinstance(schema, (bool, dict)):
            raise SchemaError(at, f"takes a schema, which is an object, true or false, not {json_type(schema)}")
        if id(schema) not in self.places:
            self.places[id(schema)] = at
            self._todo.append(schema)
        return id(schema)

    def _read(self, schema: dict[str, Any], at: str) -> list[list[int]]:
        require_known(schema, at)
        # Some annotations, such as $schema and x-guidance, change how llguidance reads the rest.
        for keyword in schema.keys() - ENFORCED - {"$defs", "definitions"}:
            del schema[keyword]
        lead = next((keyword for keyword in LEADING if keyword in schema), None)
        if lead is None:
            return self._read_typed(schema, at)
        if lead in ("const", "enum"):
            require_exact_numbers(schema[lead], f"{at}.{lead}")
            return [[]]
        if lead == "$ref":
            parts = [self._visit(*self._target(schema["$ref"], f"{at}.$ref"))]
        else:
            parts = self._read_branches(schema, lead, at)
        self.same_text[id(schema)] = parts
        return [[part] for part in parts]

    def _read_branches(self, schema: dict[str, Any], lead: str, at: str) -> list[int]:
        branches = schema[lead]
        if not isinstance(branches, list) or not branches:
            raise SchemaError(f"{at}.{lead}", "takes an array of at least one schema")
        if lead == "allOf" and len(branches) > 1:
            raise SchemaError(f"{at}.allOf", "is enforced with one schema only; write them as one")
        if lead == "oneOf" and len(branches) > MAX_ONE_OF:
            raise SchemaError(f"{at}.oneOf", f"takes at most {MAX_ONE_OF} schemas, not {len(branches)}")
        if lead == "oneOf":
            self._one_of.append((branches, f"{at}.oneOf"))
        return [self._visit(branch, f"{at}.{lead}.{index}") for index, branch in enumerate(branches)]

    def _target(self, ref: object, at: str) -> tuple[object, str]:
        """Return the schema that ``ref`` points to, and its path."""
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise SchemaError(at, "takes a reference into this schema: '#' or '#/...'")
        found: object = self.root
        for part in ref.split("/")[1:]:
            if not part or "~" in part or "%" in part:
                raise SchemaError(at, "takes names without '~', '%' and '/', none of them empty")
            if not isinstance(found, dict) or part not in found:
                raise SchemaError(at, f"there is no {part[:64]!r} at {ref[:256]!r}")
            found = found[part]
        return found, ref.removeprefix("#").replace("/", ".")

    def _read_typed(self, schema: dict[str, Any], at: str) -> list[list[int]]:
        kinds = [kind for kind, keywords in KEYWORDS_OF.items() if keywords & schema.keys()]
        if "type" not in schema and len(kinds) == 1:
            schema["type"] = kinds[0]
            self._typed.add(id(schema))
        for keyword in KEYWORDS_OF["number"] & schema.keys():
            if isinstance(schema[keyword], bool):
                raise SchemaError(f"{at}.{keyword}", f"takes a number, not {json_type(schema[keyword])}")
            require_exact_numbers(schema[keyword], f"{at}.{keyword}")
        _include_bounds(schema)
        if "multipleOf" in schema:
            self.multiples.append(_whole_multiple(schema["multipleOf"], f"{at}.multipleOf"))
        if isinstance(pattern := schema.get("pattern"), str):
            schema["pattern"] = _anchored(pattern)
        children: list[list[int]] = []
        if "array" in kinds:
            children.append(self._read_array(schema, at))
        if "object" in kinds:
            children.append(self._read_object(schema, at))
        types = schema.get("type", TYPES)
        kinds_taken = [types] if isinstance(types, str) else types if isinstance(types, (list, tuple)) else []
        needs_children = children and all(kind in ("array", "object") for kind in kinds_taken)
        return children if needs_children else [[]]

    def _read_array(self, schema: dict[str, Any], at: str) -> list[int]:
        """Visit the items; return those that every array needs."""
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise SchemaError(f"{at}.prefixItems", f"takes an array of schemas, not {json_type(prefix)}")
        needed = [self._visit(item, f"{at}.prefixItems.{index}") for index, item in enumerate(prefix)]
        if "prefixItems" in schema:
            schema.setdefault("items", False)
            schema.setdefault("minItems", len(prefix))
        if "items" in schema:
            rest = self._visit(schema["items"], f"{at}.items")
            needed += [rest] if _count(schema, "minItems") > len(prefix) else []
        return needed[: max(_count(schema, "minItems"), 0)]

    def _read_object(self, schema: dict[str, Any], at: str) -> list[int]:
        """Visit the properties; return those that every object needs."""
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for keyword, value in (("properties", properties), ("patternProperties", patterns)):
            if not isinstance(value, dict):
                raise SchemaError(f"{at}.{keyword}", f"takes an object of schemas, not {json_type(value)}")
        if len(properties) > MAX_PROPERTIES:
            raise SchemaError(f"{at}.properties", f"takes at most {MAX_PROPERTIES}, not {len(properties)}")
        if patterns and (properties or len(patterns) > 1):
            raise SchemaError(f"{at}.patternProperties", "is enforced with one pattern, and without properties")
        if "properties" in schema or "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaError(f"{at}.required", "takes an array of names")
        least = _count(schema, "minProperties")
        is_open = bool(patterns) or schema.get("additionalProperties") is not False
        if is_open and least > len(set(required)) + 1:
            raise SchemaError(f"{at}.minProperties", "is not enforced if several other names may come: one may repeat")
        named = {name: self._visit(value, f"{at}.properties.{name}") for name, value in properties.items()}
        others = [self._visit(value, f"{at}.patternProperties.{name}") for name, value in patterns.items()]
        if "additionalProperties" in schema:
            others.append(self._visit(schema["additionalProperties"], f"{at}.additionalProperties"))
        needed = [named[name] for name in required if name in named]
        return needed + (others[:1] if least > len(named) else [])

    def _require_finite(self) -> None:
        """Raise `SchemaError` for a schema whose text would contain itself without end."""
        finite: set[int] = set()
        order, count_before = list(reversed(self.finite_if)), -1
        while count_before < len(finite):
            count_before = len(finite)
            finite.update(key for key in order if any(finite.issuperset(needed) for needed in self.finite_if[key]))
        for key, at in self.places.items():
            if key not in finite:
                raise SchemaError(at, "only a text without end meets this schema: it needs itself")

    def _require_exclusive(self) -> None:
        """Raise `SchemaError` for a ``oneOf`` of which a text may meet two schemas."""
        outlines: dict[int, Outline] = {}
        checked: set[tuple[int, ...]] = set()
        for branches, at in self._one_of:
            resolved = [self._resolved(branch) for branch in branches]
            key = tuple(map(id, resolved))
            if key in checked:
                continue
            checked.add(key)
            for branch in resolved:
                if id(branch) not in outlines:
                    outlines[id(branch)] = self._outline(branch)
            if not exclude_each_other([outlines[number] for number in key]):
                raise SchemaError(at, OVERLAP)

    def _outline(self, schema: Any) -> Outline:
        if id(schema) in self._typed or not isinstance(schema, dict):
            return Outline()
        properties, required = schema.get("properties", {}), schema.get("required", ())
        return outline_of(schema, {name: self._resolved(properties[name]) for name in required if name in properties})

    def _resolved(self, schema: Any) -> Any:
        """Follow ``$ref``; references that lead in a circle were refused."""
        while isinstance(schema, dict) and "$ref" in schema:
            schema, _ = self._target(schema["$ref"], "")
        return schema


def _count(schema: Mapping[str, Any], keyword: str) -> int:
    """Return a number of items or properties; llguidance refuses what is not one."""
    value = schema.get(keyword, 0)
    return value if isinstance(value, int) else 0


def _include_bounds(schema: dict[str, Any]) -> None:
    """Replace exclusive bounds that are whole numbers: llguidance includes them if no whole number is within."""
    for exclusive, inclusive, sign in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        bound, other = schema.get(exclusive), schema.get(inclusive, schema.get(exclusive))
        if isinstance(bound, (int, float)) and isinstance(other, (int, float)) and bound == int(bound):
            inside = max(sign * bound + NUMBER_STEP, math.nextafter(sign * bound, math.inf), sign * other)
            schema[inclusive] = sign * inside
            del schema[exclusive]


def _whole_multiple(value: object, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise SchemaError(at, "takes a whole number of at least 1")
    return int(value)


def _anchored(pattern: str) -> str:
    """Hold the whole string to ``pattern``: a match somewhere in it would let anything come before and after."""
    body = pattern.removeprefix("^")
    stripped = body.removesuffix("$")
    ends_escaped = (len(stripped) - len(stripped.rstrip("\\"))) % 2 == 1
    return f"^(?:{body if ends_escaped else stripped})$"
