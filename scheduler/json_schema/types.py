"""The keywords of a JSON schema that go with a type, and what the worker's library makes of each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from windrow.scheduler.core.json_types import json_type

KEYWORDS_OF: dict[str, frozenset[str]] = {
    "null": frozenset(),
    "boolean": frozenset(),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "array": frozenset(("items", "prefixItems", "unevaluatedItems", "minItems", "maxItems")),
    "object": frozenset(
        (
            "properties", "required", "additionalProperties", "unevaluatedProperties", "patternProperties",
            "minProperties", "maxProperties",
        )
    ),
}  # fmt: skip
#: Where no type is said, one of these says it.
TELLING = {
    "object": ("properties", "additionalProperties", "unevaluatedProperties"),
    "array": ("items", "prefixItems", "unevaluatedItems"),
}
FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uri-reference", "uuid",
)  # fmt: skip
#: Of characters, items and properties.
MAX_COUNT = 10_000
#: Of one object: each optional one may come after each one before it.
MAX_PROPERTIES = 500
MAX_PATTERN_CHARACTERS = 128
#: After a backslash in a pattern; others would bring characters that a JSON string has to escape.
ESCAPED = frozenset("dw.-+*?/()[]{}|^$,:;=@#%&~!_<> '")
ESCAPES = "\\d, \\w, and punctuation but for '\\\\' and '\"'"
#: Properties where their number is bounded too: there is a rule for each of them after any number of the others.
MAX_COUNTED_PROPERTIES = 32
MAX_MULTIPLE, MAX_MULTIPLES = 100, 1000
#: Numbers that a float has exactly.
MAX_NUMBER = 1 << 53
#: Where a number has bounds, it is written with so many decimals at most.
DECIMALS = 6


class Refused(Exception):
    """Why a schema is refused; ``at`` is the place inside it, beginning with a dot."""

    def __init__(self, at: str, why: str) -> None:
        super().__init__(why)
        self.at = at


@dataclass(frozen=True, slots=True)
class Inner:
    """The schemas of what an array or an object holds, by their place, and those of them that every answer needs."""

    schemas: Mapping[str, Any]
    needed: list[str]


def accepted_types(schema: Mapping[str, Any], at: str) -> list[str]:
    """The types of an answer as the library will take them; empty where any will do."""
    if "type" in schema:
        said = schema["type"]
        types = [said] if isinstance(said, str) else said
        if not isinstance(types, list) or not types or len(types) > len(KEYWORDS_OF):
            raise Refused(f"{at}.type", f"takes one of {', '.join(KEYWORDS_OF)}, or an array of them")
        for kind in types:
            if not isinstance(kind, str) or kind not in KEYWORDS_OF:
                raise Refused(f"{at}.type", f"takes one of {', '.join(KEYWORDS_OF)}, or an array of them")
        return types
    for kind, keywords in TELLING.items():
        if any(keyword in schema for keyword in keywords):
            return [kind]
    for going_with in KEYWORDS_OF.values():
        for keyword in sorted(going_with & schema.keys()):
            raise Refused(f"{at}.{keyword}", "is not enforced without type beside it")
    return []


def is_of_type(value: object, kind: str) -> bool:
    """Whether a JSON value is of that type; 3.0 is an integer."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, (int, float)):
        return kind == "number" or (kind == "integer" and value == math.floor(value))
    return kind == json_type(value).split()[-1]


def check_scalars(schema: Mapping[str, Any], types: list[str], at: str) -> None:
    """Raise `Refused` for what is not enforced of a string or a number."""
    if "string" in types:
        _check_string(schema, at)
    if "number" in types or "integer" in types:
        _check_number(schema, types, at)


def check_array(schema: Mapping[str, Any], at: str) -> Inner:
    """Raise `Refused` for what is not enforced of an array; return the schemas inside it."""
    first, most = _counts(schema, "minItems", "maxItems", at)
    prefix = schema.get("prefixItems", [])
    if not isinstance(prefix, list) or not all(isinstance(one, dict) for one in prefix):
        raise Refused(f"{at}.prefixItems", "takes an array of schemas that are objects")
    inner = {f"prefixItems.{index}": one for index, one in enumerate(prefix)}
    needed = list(inner)
    rest = next((name for name in ("items", "unevaluatedItems") if name in schema), None)
    if rest is not None and schema[rest] is not False:
        inner[rest] = schema[rest]
        if first > len(prefix):
            needed.append(rest)
    elif first > len(prefix):
        raise Refused(f"{at}.minItems", f"is {first}, and {len(prefix)} items have a schema; say items")
    if most is not None and most < len(prefix):
        raise Refused(f"{at}.maxItems", f"is {most}, and prefixItems are {len(prefix)}")
    return Inner(inner, needed)


def check_object(schema: Mapping[str, Any], at: str) -> Inner:
    """Raise `Refused` for what is not enforced of an object; return the schemas inside it."""
    least, most = _counts(schema, "minProperties", "maxProperties", at)
    named, required = _named(schema, at)
    inner = {f"properties.{name}": one for name, one in named.items()}
    needed = [f"properties.{name}" for name in required]
    if most is not None and most < len(required):
        raise Refused(f"{at}.maxProperties", f"is {most}, and {len(required)} are required")
    if (least or most is not None) and len(named) > MAX_COUNTED_PROPERTIES:
        keyword = "minProperties" if "minProperties" in schema else "maxProperties"
        raise Refused(f"{at}.{keyword}", f"takes at most {MAX_COUNTED_PROPERTIES} properties, not {len(named)}")
    if "patternProperties" in schema:
        patterns = schema["patternProperties"]
        if not isinstance(patterns, dict) or len(patterns) != 1 or named:
            raise Refused(f"{at}.patternProperties", "is enforced with one pattern, and without properties")
        for keyword in ("additionalProperties", "unevaluatedProperties"):
            if not isinstance(schema.get(keyword, False), bool):
                raise Refused(f"{at}.{keyword}", "takes true or false beside patternProperties; no others come")
        (pattern,) = patterns
        _check_pattern(pattern, f"{at}.patternProperties")
        others = {f"patternProperties.{pattern}": patterns[pattern]}
    else:
        rest = next((name for name in ("additionalProperties", "unevaluatedProperties") if name in schema), None)
        others = {rest: schema[rest]} if rest is not None and schema[rest] is not False else {}
    if least > len(named) and not others:
        raise Refused(
            f"{at}.minProperties", f"is {least}, and there are {len(named)} properties; nothing else may come"
        )
    if others and least > max(1, len(required)):
        raise Refused(f"{at}.minProperties", "is not enforced above 1 where other names may come: one may come twice")
    return Inner(inner | others, needed + (list(others) if least > len(named) else []))


def _named(schema: Mapping[str, Any], at: str) -> tuple[Mapping[str, Any], list[str]]:
    named, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(named, dict):
        raise Refused(f"{at}.properties", f"takes an object of schemas, not {json_type(named)}")
    if len(named) > MAX_PROPERTIES:
        raise Refused(f"{at}.properties", f"takes at most {MAX_PROPERTIES}, not {len(named)}")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise Refused(f"{at}.required", "takes an array of names")
    for name in required:
        if name not in named:
            raise Refused(f"{at}.required", f"{name[:64]!r} is not among properties, so it would never come")
    return named, sorted(set(required))


def _check_string(schema: Mapping[str, Any], at: str) -> None:
    _counts(schema, "minLength", "maxLength", at)
    said = [keyword for keyword in ("format", "pattern", "minLength", "maxLength") if keyword in schema]
    if len(said) > 1 and said[0] in ("format", "pattern"):
        raise Refused(f"{at}.{said[1]}", f"is not enforced beside {said[0]}")
    if "format" in schema and schema["format"] not in FORMATS:
        raise Refused(f"{at}.format", f"takes one of {', '.join(FORMATS)}")
    if "pattern" in schema:
        _check_pattern(schema["pattern"], f"{at}.pattern")


def _check_pattern(pattern: object, at: str) -> None:
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARACTERS:
        raise Refused(at, f"takes a regular expression of at most {MAX_PATTERN_CHARACTERS} characters")
    if not (pattern.isascii() and pattern.isprintable()) or '"' in pattern:
        raise Refused(at, "takes printable ASCII without '\"' alone")
    for escaped in re.findall(r"\\(.?)", pattern):
        if escaped not in ESCAPED:
            raise Refused(at, f"'\\{escaped}' is not enforced; escapes that are: {ESCAPES}")
    bare = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "_", pattern)
    if re.search(r"\(\?(?!:)", bare):
        raise Refused(at, "of what begins with '(?', only '(?:' is enforced")
    if re.search(r"[$^]", bare.removeprefix("^").removesuffix("$")):
        raise Refused(at, "'^' and '$' are enforced at its ends alone, which stand there anyway")
    if _repeats_repeats(bare):
        raise Refused(at, "a repeated group with a repetition inside is not enforced")


def _repeats_repeats(bare: str) -> bool:
    """Whether a group with a quantifier inside has one itself; ``bare`` has neither escapes nor classes."""
    while group := re.search(r"\((?:\?:)?([^()]*)\)([*+?{]?)", bare):
        has_inside = re.search(r"[*+?{]", group[1]) is not None
        if has_inside and group[2]:
            return True
        # What it was is a quantifier to the group round it.
        bare = bare[: group.start()] + ("_+" if has_inside else "_") + group[2] + bare[group.end() :]
    return False


def _check_number(schema: Mapping[str, Any], types: list[str], at: str) -> None:
    bounds: dict[str, Fraction] = {}
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if keyword not in schema:
            continue
        value = schema[keyword]
        if not is_of_type(value, "number") or abs(value) > MAX_NUMBER:
            raise Refused(f"{at}.{keyword}", f"takes a number of at most {MAX_NUMBER}, above or below 0")
        if "integer" in types and not is_of_type(value, "integer"):
            raise Refused(f"{at}.{keyword}", f"takes a whole number where the type is integer, not {value}")
        bounds[keyword] = Fraction(str(value))
    step = Fraction(1) if "integer" in types else Fraction(1, 10**DECIMALS)
    if "multipleOf" in schema:
        step = _multiple(schema["multipleOf"], types, bounds, f"{at}.multipleOf")
    if bounds and _count(bounds, step) == 0:
        raise Refused(f"{at}.{next(iter(bounds))}", f"no multiple of {_shown(step)} is within the bounds")


def _multiple(value: Any, types: list[str], bounds: Mapping[str, Fraction], at: str) -> Fraction:
    if "number" in types:
        raise Refused(at, "is enforced where the type is integer alone")
    if not is_of_type(value, "integer") or not 1 <= value <= MAX_MULTIPLE:
        raise Refused(at, f"takes a whole number from 1 to {MAX_MULTIPLE}")
    integers = _count(bounds, Fraction(1)) if bounds else 0
    if integers is None or integers > MAX_MULTIPLES:
        raise Refused(at, f"is enforced without bounds, or with two that have at most {MAX_MULTIPLES} integers between")
    return Fraction(value)


def _count(bounds: Mapping[str, Fraction], step: Fraction) -> int | None:
    """How many multiples of ``step`` are within the bounds; None where they are open at one side."""
    firsts = [math.ceil(bounds["minimum"] / step)] if "minimum" in bounds else []
    firsts += [math.floor(bounds["exclusiveMinimum"] / step) + 1] if "exclusiveMinimum" in bounds else []
    lasts = [math.floor(bounds["maximum"] / step)] if "maximum" in bounds else []
    lasts += [math.ceil(bounds["exclusiveMaximum"] / step) - 1] if "exclusiveMaximum" in bounds else []
    return max(0, min(lasts) - max(firsts) + 1) if firsts and lasts else None


def _shown(step: Fraction) -> str:
    return str(step) if step >= 1 else f"{float(step):.{DECIMALS}f}"


def _counts(schema: Mapping[str, Any], least: str, most: str, at: str) -> tuple[int, int | None]:
    for keyword in (least, most):
        value = schema.get(keyword, 0)
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            raise Refused(f"{at}.{keyword}", f"takes a whole number from 0 to {MAX_COUNT}")
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and low > high:
        raise Refused(f"{at}.{least}", f"is {low}, above {most}, which is {high}")
    return low, high
