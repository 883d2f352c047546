"""The requests of a benchmark: a file with one input per line, or seeded texts of 3 to 400 words."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from windrow.lab.sample_texts import mixed_texts

#: Fields of a line that may contain the input; the first that exists is used.
INPUT_FIELDS = ("input", "text", "prompt")

#: Lengths of generated answers: sigma of the lognormal distribution, and the longest in tokens.
SIGMA, MOST_TOKENS = 0.8, 256


@dataclass(frozen=True, slots=True)
class Item:
    """One request."""

    input: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> int:
        """Length in words, at least 1; an engine without a model counts each word as a token."""
        return max(1, len(str(self.input).split()))


def load_items(path: Path | None, count: int, seed: int) -> list[Item]:
    """Return ``count`` requests from the file, repeated if it has fewer, or drawn with ``seed`` if ``path`` is None.

    Raises `ValueError` with the line of a file that cannot be read.
    """
    if path is None:
        return [_plain(text) for text in mixed_texts(count, seed)]
    items = read_items(path)
    return list(islice(cycle(items), count))


def read_items(path: Path) -> list[Item]:
    """Read one request per line: plain text, or in a ``.jsonl`` file an object with ``input``, ``text`` or ``prompt``.

    An object may also have ``parameters``. Blank lines are skipped. Raises `ValueError` with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    items = [
        _of_object(path, number, line) if path.suffix == ".jsonl" else _plain(line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not items:
        raise ValueError(f"{path}: has no line with an input")
    return items


def _of_object(path: Path, number: int, line: str) -> Item:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
    name = next((name for name in INPUT_FIELDS if isinstance(row, dict) and name in row), None)
    if name is None:
        raise ValueError(f"{path}, line {number}: takes an object with one of {', '.join(INPUT_FIELDS)}")
    if not isinstance(row.get("parameters", {}), dict):
        raise ValueError(f"{path}, line {number}: parameters takes an object")
    return Item(row[name], row["parameters"]) if "parameters" in row else _plain(row[name])


def with_lengths(items: Sequence[Item], median_tokens: float, seed: int) -> list[Item]:
    """Return ``items`` with exact answer lengths, drawn lognormally; an item that has a length already keeps it."""
    numbers = random.Random(seed)
    made = []
    for item in items:
        tokens = min(MOST_TOKENS, max(1, round(numbers.lognormvariate(math.log(median_tokens), SIGMA))))
        made.append(replace(item, parameters={"max_tokens": tokens, "ignore_eos": True, **item.parameters}))
    return made


def _plain(value: Any) -> Item:
    """Return an item without parameters of its own; a text that is too long is truncated."""
    return Item(value, {"truncate": True} if isinstance(value, str) else {})
