"""About how long a JSON schema takes to become a grammar.

What costs is not its size but its open states: those where much of the vocabulary may come, and each token is tried.
Measured with 128,000 tokens, a hundred of them take about a second of one core. The prices below are fitted to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_OPEN_STATES = 1000
#: Of strings with bounds: what the longest of them costs others share, up to this length; beyond, each has its own.
SHARED_LENGTH, LONG_STATES, MORE_STATES = 128, 200, 40
#: Of a byte of a name that other names must differ from, of a number with bounds, and of a format.
NAME_STATES, NUMBER_STATES, FORMAT_STATES = 2, 1, 10
#: So many remainders of a number, and rules of an object whose properties are counted, are as much as one open state.
REMAINDERS, COUNTED_RULES = 4, 10

_TOKENS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{\d+(?:,\d*)?\}|.")


@dataclass
class Cost:
    """What the strings, numbers and objects of one schema come to; what is alike is paid once."""

    lengths: set[tuple[int, int]] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    formats: set[str] = field(default_factory=set)
    numbers: int = 0
    remainders: int = 0
    counted_rules: int = 0
    name_bytes: int = 0

    def add(self, schema: Mapping[str, Any], types: list[str]) -> None:
        """Add a checked schema, without those inside it."""
        if "string" in types and "format" in schema:
            self.formats.add(schema["format"])
        elif "string" in types and "pattern" in schema:
            self.patterns.add(schema["pattern"])
        elif "string" in types and ("minLength" in schema or "maxLength" in schema):
            self.lengths.add((schema.get("minLength", 0), schema.get("maxLength", 0)))
        if ("number" in types or "integer" in types) and any("imum" in keyword for keyword in schema):
            self.numbers += 1
        if "integer" in types and "multipleOf" in schema:
            self.remainders += int(schema["multipleOf"])
        if "object" in types:
            self.patterns.update(schema.get("patternProperties", ()))
            count = len(schema.get("properties", ()))
            if "minProperties" in schema or "maxProperties" in schema:
                self.counted_rules += count * min(count, schema.get("maxProperties", count))
            others = schema.get("additionalProperties", schema.get("unevaluatedProperties", False))
            self.name_bytes += (
                0 if others is False else sum(len(name.encode()) for name in schema.get("properties", ()))
            )

    @property
    def open_states(self) -> int:
        """The sum."""
        longest = [max(pair) for pair in self.lengths]
        return (
            sum(LONG_STATES if length > SHARED_LENGTH else MORE_STATES for length in longest)
            + max((length for length in longest if length <= SHARED_LENGTH), default=0)
            + sum(pattern_states(pattern) for pattern in self.patterns)
            + FORMAT_STATES * len(self.formats)
            + NUMBER_STATES * self.numbers
            + self.remainders // REMAINDERS
            + self.counted_rules // COUNTED_RULES
            + NAME_STATES * self.name_bytes
        )


def pattern_states(pattern: str) -> int:
    """Characters of the longest match, where '*' and '+' are one, times how often something may come or not."""
    # (characters, choices) of each group that is open, and of the last thing in it, which a quantifier repeats
    groups: list[tuple[int, int]] = [(0, 0)]
    last = (0, 0)
    for token in _TOKENS.findall(pattern):
        if token == "(":
            groups, last = [*groups, last, (0, 0)], (0, 0)
            continue
        if token == ")" and len(groups) > 2:
            last = _sum(groups.pop(), last)
            before = groups.pop()
            groups[-1] = _sum(groups[-1], before)
            continue
        if token[0] == "{" and len(token) > 1:
            least, _, most = token[1:-1].partition(",")
            times = max(1, int(most or least))
            last = (last[0] * times, last[1] * times + (least != (most or least)))
            continue
        if token in ("*", "+", "?"):
            last = (last[0], last[1] + 1)
            continue
        groups[-1], last = _sum(groups[-1], last), (0, 1) if token == "|" else (1, 0)
    characters, choices = last
    for group in groups:
        characters, choices = _sum((characters, choices), group)
    return characters * (1 + choices)


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
