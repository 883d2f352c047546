"""Pages of a key/value cache: who has which, and which may be used again for the same prefix.

A page holds the keys and values of a fixed number of tokens. Pages that are full of a prompt's tokens can be published
under a key that stands for all the tokens up to there; a prompt that begins alike then shares them. A published page
that nobody has stays as it is until its memory is needed: the one unused for longest goes first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


class PagePool:
    """Hands out page numbers 0 to ``pages`` - 1. Every page is free, idle (published, nobody's), or taken."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._free = list(range(pages - 1, -1, -1))
        #: Key -> the page published under it, and back; taken or idle.
        self._page_of: dict[Hashable, int] = {}
        self._key_of: dict[int, Hashable] = {}
        #: How many have each published page; those with none are in ``_idle``, in the order they were given back.
        self._owners: dict[int, int] = {}
        self._idle: dict[int, None] = {}

    @property
    def available(self) -> int:
        """Pages that `take` could hand out now."""
        return len(self._free) + len(self._idle)

    def match(self, keys: Sequence[Hashable]) -> list[int]:
        """Pages published under the longest prefix of ``keys``; they may be idle, and nobody has them yet."""
        found: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def count_idle(self, pages: Sequence[int]) -> int:
        """How many of ``pages`` are idle: sharing those takes them from what is available."""
        return sum(page in self._idle for page in pages)

    def owners(self, page: int) -> int:
        """How many have a ``page`` that somebody has."""
        return self._owners.get(page, 1)

    def share(self, pages: Sequence[int]) -> None:
        """Become one more owner of published ``pages``."""
        for page in pages:
            self._owners[page] += 1
            self._idle.pop(page, None)

    def take(self, count: int) -> list[int]:
        """Become the only owner of ``count`` pages; raises `ValueError` where so many are not available."""
        missing = count - len(self._free)
        if missing > len(self._idle):
            raise ValueError(f"{count} pages wanted, {self.available} available")
        for _ in range(missing):
            self._forget(next(iter(self._idle)))
        at = len(self._free) - count
        taken = self._free[at:]
        del self._free[at:]
        return taken

    def publish(self, page: int, key: Hashable) -> bool:
        """Let others find a taken ``page`` under ``key``; False where that key has a page already."""
        if key in self._page_of:
            return False
        self._page_of[key], self._key_of[page], self._owners[page] = page, key, 1
        return True

    def release(self, pages: Sequence[int], published: int) -> None:
        """Give back ``pages``, of which the first ``published`` were published or shared."""
        self._free.extend(pages[published:])
        # The end of a prefix is of no use without its beginning, so it has to go first.
        for page in reversed(pages[:published]):
            self._owners[page] -= 1
            if not self._owners[page]:
                self._idle[page] = None

    def _forget(self, page: int) -> None:
        del self._idle[page], self._owners[page], self._page_of[self._key_of.pop(page)]
        self._free.append(page)
