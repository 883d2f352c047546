"""What became of one request: the value every engine returns and the queue stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windrow.errors import WindrowError


@dataclass(frozen=True, slots=True)
class Done:
    """One request succeeded."""

    #: The output object, JSON-serialisable; numpy arrays are allowed.
    output: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """One request failed; its neighbours did not."""

    error: WindrowError


Outcome = Done | Failed
