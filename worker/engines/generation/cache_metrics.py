"""The metrics of a paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class CacheMetrics:
    """Part of every heartbeat, beside `EngineInfo.pages`."""

    #: Pages that belong to a sequence. The others are free, or keep a shared prefix until their memory is needed.
    pages_taken: int
    #: Number of preemptions since the start.
    preemptions: int


@runtime_checkable
class HasCache(Protocol):
    """An engine that has a paged cache."""

    def cache_use(self) -> CacheMetrics:
        """Return the present values. Any thread."""
        ...
