"""Which JSON schemas an answer can be held to.

The worker's library leaves aside in silence what it does not know, and much of what stands beside something else. Here
everything of a schema is refused that it would leave aside, and whatever no finite text meets, so that an answer which
ended by itself meets its schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from windrow.errors import InvalidInput
from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.json_schema.cost import MAX_OPEN_STATES, Cost
from windrow.scheduler.json_schema.types import (
    KEYWORDS_OF,
    Refused,
    accepted_types,
    check_array,
    check_object,
    check_scalars,
)
from windrow.scheduler.json_schema.values import are_apart, check_values

#: They say nothing of what an answer is.
ANNOTATIONS = frozenset(
    (
        "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
        "contentMediaType", "contentEncoding", "discriminator", "$comment", "$schema", "$defs", "definitions",
    )
)  # fmt: skip
#: Each says all of what the answer is; at most one of them is heard.
LEADING = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
#: Types whose answers hold others.
HOLDING = {"array": check_array, "object": check_object}
#: One after another, that are followed to see whether the schemas of a ``oneOf`` are apart.
MAX_REFERENCES = 4
#: Schemas of a ``oneOf``, each of which is held against each other one.
MAX_ONE_OF = 64
#: Characters of the place that an error names.
MAX_PLACE = 200
ENFORCED = frozenset(LEADING) | {"type"} | frozenset().union(*KEYWORDS_OF.values())


def require_enforced(schema: Mapping[str, Any], where: str = "parameters.schema") -> None:
    """Raise `InvalidInput` for what would not be enforced in a schema within `require_bounded`, and where it stands."""
    try:
        _SchemaCheck(schema).run()
    except Refused as refused:
        at = refused.at if len(refused.at) <= MAX_PLACE else f"...{refused.at[-MAX_PLACE:]}"
        raise InvalidInput(f"{where}{at}: {refused}") from None


@dataclass
class _SchemaCheck:
    """Every schema that an answer may come through, by identity: the whole is held meanwhile."""

    root: Mapping[str, Any]
    places: dict[int, str] = field(default_factory=dict)
    #: For its text to end, those of all schemas in one of these lists have to.
    ways: dict[int, list[list[int]]] = field(default_factory=dict)
    #: What the text of a schema is the whole text of.
    same: dict[int, list[int]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    _todo: list[Any] = field(default_factory=list)
    _one_of: list[tuple[list[Any], str]] = field(default_factory=list)

    def run(self) -> None:
        """Raise `Refused` for the first thing that is wrong."""
        self._visit(self.root, "")
        while self._todo:
            self._check(self._todo.pop())
        for branches, at in self._one_of:
            if not are_apart([self._seen_through(branch, at) for branch in branches]):
                raise Refused(
                    at, "an answer may meet two of its schemas, which is not enforced; give each another type, or a "
                    "required property with a const of its own, or take anyOf"
                )  # fmt: skip
        try:
            TopologicalSorter(self.same).prepare()
        except CycleError as error:
            at = self.places[error.args[1][0]]
            raise Refused(at, "leads back to itself before any text; nothing says what the answer is") from None
        self._require_finite()
        if self.cost.open_states > MAX_OPEN_STATES:
            raise Refused(
                "", f"its bounds, patterns and names beside additionalProperties come to "
                f"{self.cost.open_states} states, and at most {MAX_OPEN_STATES} are taken"
            )  # fmt: skip

    def _visit(self, schema: object, at: str) -> int:
        """Have ``schema`` checked too; return what stands for it."""
        if schema is False:
            raise Refused(at, "false is met by nothing")
        if schema is not True and not isinstance(schema, dict):
            raise Refused(at, f"takes a schema, an object or true, not {json_type(schema)}")
        if id(schema) not in self.places:
            self.places[id(schema)] = at
            self._todo.append(schema)
        return id(schema)

    def _check(self, schema: dict[str, Any] | bool) -> None:
        key = id(schema)
        self.same[key], self.ways[key] = [], [[]]
        if isinstance(schema, bool):
            return
        at = self.places[key]
        self._require_known(schema, at)
        lead = next((keyword for keyword in LEADING if keyword in schema), None)
        if lead is None:
            self._check_typed(schema, at)
            return
        is_values = lead in ("const", "enum")
        for keyword in sorted(schema.keys() & ENFORCED - {lead} - ({"type"} if is_values else set())):
            raise Refused(f"{at}.{keyword}", f"is not enforced beside {lead}")
        if is_values:
            check_values(schema, lead, at)
            return
        if lead == "$ref":
            parts = [self._visit(*self._target(schema["$ref"], f"{at}.$ref"))]
        else:
            parts = self._branches(schema, lead, at)
        self.same[key], self.ways[key] = parts, [[part] for part in parts]

    def _require_known(self, schema: Mapping[str, Any], at: str) -> None:
        for keyword in schema:
            is_root_id = keyword == "$id" and not at
            if keyword not in ENFORCED | ANNOTATIONS and not keyword.startswith("x-") and not is_root_id:
                raise Refused(f"{at}.{keyword[:64]}", f"is not enforced; enforced are {', '.join(sorted(ENFORCED))}")

    def _branches(self, schema: Mapping[str, Any], lead: str, at: str) -> list[int]:
        branches = schema[lead]
        if not isinstance(branches, list) or not branches:
            raise Refused(f"{at}.{lead}", "takes an array of at least one schema")
        if lead == "allOf" and len(branches) > 1:
            raise Refused(f"{at}.allOf", "is enforced with one schema only; write them as one")
        parts = [self._visit(branch, f"{at}.{lead}.{index}") for index, branch in enumerate(branches)]
        if lead == "oneOf" and len(branches) > MAX_ONE_OF:
            raise Refused(f"{at}.oneOf", f"takes at most {MAX_ONE_OF} schemas, not {len(branches)}")
        if lead == "oneOf":
            self._one_of.append((branches, f"{at}.oneOf"))
        return parts

    def _seen_through(self, schema: object, at: str) -> object:
        """What ``schema`` refers to, over a few references."""
        for _ in range(MAX_REFERENCES):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self._target(schema["$ref"], at)[0]
        return schema

    def _target(self, ref: object, at: str) -> tuple[object, str]:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise Refused(at, "takes a reference into this schema: '#' or '#/...'")
        if ref == "#":
            return self.root, ""
        found: object = self.root
        for part in ref[2:].split("/"):
            if not part or "~" in part or "%" in part:
                raise Refused(at, "takes names without '~', '%' and '/', none of them empty")
            if not isinstance(found, dict) or part not in found:
                raise Refused(at, f"there is no {part[:64]!r} at {ref[:256]!r}")
            found = found[part]
        return found, "." + ref[2:].replace("/", ".")

    def _check_typed(self, schema: dict[str, Any], at: str) -> None:
        types = accepted_types(schema, at)
        check_scalars(schema, types, at)
        ways: list[list[int]] = []
        for kind in types:
            if kind not in HOLDING:
                ways.append([])
                continue
            inner = HOLDING[kind](schema, at)
            visited = {name: self._visit(one, f"{at}.{name}") for name, one in inner.schemas.items()}
            ways.append([visited[name] for name in inner.needed])
        self.ways[id(schema)] = ways or [[]]
        self.cost.add(schema, types)

    def _require_finite(self) -> None:
        finite: set[int] = set()
        # Inner ones were come across later: few rounds, and one more for each reference backwards.
        order, before = list(reversed(self.ways)), -1
        while before < len(finite):
            before = len(finite)
            for key in order:
                if any(finite.issuperset(way) for way in self.ways[key]):
                    finite.add(key)
        for key, at in self.places.items():
            if key not in finite:
                raise Refused(at, "no answer that ends meets it: it needs itself")
