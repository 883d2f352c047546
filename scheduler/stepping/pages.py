"""Pages of a KV cache: which sequence owns each page, and which pages can be shared by prompts with equal prefixes.

A page holds the keys and values of a fixed number of tokens. A page filled with prompt tokens can be published under a
key that stands for all tokens of the prompt up to the end of that page; a prompt with the same prefix then shares it.
A published page without an owner keeps its content until its memory is needed. The least recently used one is evicted
first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class PagePool:
    """Allocates page numbers 0 to ``pages`` - 1. Every page is free, idle (published, without an owner) or owned."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._free = list(range(pages - 1, -1, -1))
        #: Key -> published page, owned or idle; and the reverse.
        self._page_of: dict[Hashable, int] = {}
        self._key_of: dict[int, Hashable] = {}
        #: Number of owners of each published page; pages without an owner are in ``_idle``, least recently used first.
        self._owners: dict[int, int] = {}
        #: Ordered, because the first entry of a plain dict is slow to find after many deletions.
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Number of pages that `take` could allocate now."""
        return len(self._free) + len(self._idle)

    def match(self, keys: Sequence[Hashable]) -> list[int]:
        """Return the pages published under the longest prefix of ``keys``, without becoming an owner of them."""
        found: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def count_idle(self, pages: Sequence[int]) -> int:
        """Return how many of ``pages`` are idle; sharing these reduces `available`."""
        return sum(page in self._idle for page in pages)

    def owners(self, page: int) -> int:
        """Return the number of owners of a ``page`` that has at least one."""
        return self._owners.get(page, 1)

    def share(self, pages: Sequence[int]) -> None:
        """Become one more owner of published ``pages``."""
        for page in pages:
            self._owners[page] += 1
            self._idle.pop(page, None)

    def take(self, count: int) -> list[int]:
        """Become the only owner of ``count`` pages; raise `ValueError` if fewer are available."""
        missing = count - len(self._free)
        if missing > len(self._idle):
            raise ValueError(f"{count} pages requested, but only {self.available} of {self.pages} are available")
        for _ in range(missing):
            self._evict()
        start = len(self._free) - count
        taken = self._free[start:]
        del self._free[start:]
        return taken

    def publish(self, page: int, key: Hashable) -> bool:
        """Let other prompts find an owned ``page`` under ``key``; return False if that key has a page already."""
        if key in self._page_of:
            return False
        self._page_of[key], self._key_of[page], self._owners[page] = page, key, 1
        return True

    def release(self, pages: Sequence[int], published: int) -> None:
        """Stop owning ``pages``, of which the first ``published`` were published or shared."""
        self._free.extend(pages[published:])
        # The end of a prefix is useless without its beginning, so it has to be evicted first.
        for page in reversed(pages[:published]):
            self._owners[page] -= 1
            if not self._owners[page]:
                self._idle[page] = None

    def _evict(self) -> None:
        page, _ = self._idle.popitem(last=False)
        del self._owners[page], self._page_of[self._key_of.pop(page)]
        self._free.append(page)
