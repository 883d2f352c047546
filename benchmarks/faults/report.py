"""What a scenario found: figures, and promises that did not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: Ids that are named where many are wrong.
NAMED = 3


@dataclass(slots=True)
class Report:
    """Of one scenario; filled as it goes."""

    scenario: str
    #: Rows of ``name, value, unit, target, digits``, as the other benchmarks have them.
    figures: list[dict[str, Any]] = field(default_factory=list)
    #: Promises that did not hold, in words; empty is what everybody wants.
    broken: list[str] = field(default_factory=list)

    def figure(self, name: str, value: float, unit: str = "", target: str | None = None, digits: int = 2) -> None:
        """Note a figure."""
        self.figures.append({"name": name, "value": value, "unit": unit, "target": target, "digits": digits})

    def count(self, name: str, ids: Sequence[str]) -> None:
        """Note a figure that has to be 0, with the ids that it counts."""
        self.figure(name, len(ids), "requests", "0", 0)
        if ids:
            self.broken.append(f"{name}: {len(ids)}, such as {', '.join(ids[:NAMED])}")

    def must(self, holds: bool, otherwise: str) -> None:
        """Note ``otherwise`` as a broken promise unless it ``holds``."""
        if not holds:
            self.broken.append(otherwise)
