"""The report of a scenario: its figures, and the promises that did not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: How many ids a message names.
NAMED = 3


@dataclass(slots=True)
class Report:
    """The result of one scenario, filled while it runs."""

    scenario: str
    #: Rows of ``name, value, unit, target, digits``, as in the other benchmarks.
    figures: list[dict[str, Any]] = field(default_factory=list)
    #: Descriptions of the promises that did not hold.
    broken: list[str] = field(default_factory=list)

    def figure(self, name: str, value: float, unit: str = "", target: str | None = None, digits: int = 2) -> None:
        """Add a figure."""
        self.figures.append({"name": name, "value": value, "unit": unit, "target": target, "digits": digits})

    def count(self, name: str, ids: Sequence[str]) -> None:
        """Add the number of ``ids`` as a figure that must be 0."""
        self.figure(name, len(ids), "requests", "0", 0)
        if ids:
            self.broken.append(f"{name}: {len(ids)}, for example {', '.join(ids[:NAMED])}")

    def must(self, holds: bool, otherwise: str) -> None:
        """Add ``otherwise`` as a broken promise unless ``holds``."""
        if not holds:
            self.broken.append(otherwise)
