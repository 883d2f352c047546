"""What an engine with a paged cache says of it while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class CacheMetrics:
    """In every heartbeat, beside `EngineInfo.pages`."""

    #: Pages that some sequence has; the others are free, or kept for prompts that begin alike until they are needed.
    pages_taken: int
    #: How often a sequence made room since the start.
    preemptions: int


@runtime_checkable
class HasCache(Protocol):
    """An engine that has such a cache."""

    def cache_use(self) -> CacheMetrics:
        """As it is now. Any thread."""
        ...
