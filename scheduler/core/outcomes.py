"""`Outcome`: how one request finished; engines return it and the queue stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windrow.errors import WindrowError


@dataclass(frozen=True, slots=True)
class Done:
    """The request succeeded."""

    #: The output object, JSON-serialisable; numpy arrays are allowed.
    output: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed; other requests of its batch are not affected."""

    error: WindrowError


Outcome = Done | Failed
