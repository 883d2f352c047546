"""Incremental detokenization: text of a growing sequence, without half characters and possible stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

#: What a tokenizer returns for bytes that are not a complete character.
HALF = "\ufffd"
#: Maximum bytes of one character.
MAX_CHARACTER_BYTES = 4


class IncrementalText:
    """The text of one growing sequence. Each call decodes the last few tokens only, however long the text is."""

    __slots__ = ("_held", "_ids", "_read", "_start", "_stops", "_tokenizer", "stopped", "text")

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = ()) -> None:
        """``ids`` is the list that the sequence's tokens are appended to."""
        self._tokenizer, self._ids, self._stops = tokenizer, ids, stops
        # Tokens before ``_start`` no longer influence the text; those before ``_read`` are part of it.
        self._start = self._read = 0
        self._held = ""
        #: The text so far, and whether a stop string ended it.
        self.text = ""
        self.stopped = False

    def advance(self, end: int, *, is_last: bool = False, may_stop: bool = True) -> str:
        """Return the new text of the tokens up to ``end``; with ``is_last`` also the text that was held back.

        Returns "" after the text has `stopped`. A stop string that is completed while ``may_stop`` is False is part of
        the text; one that is completed later ends the text before its first character.
        """
        if self.stopped:
            return ""
        known, self._held = self._held, ""
        fresh = known + self._decode(end, is_last)
        if self._stops:
            fresh = self._cut(fresh, len(known), is_last, may_stop)
        self.text += fresh
        return fresh

    def _decode(self, end: int, is_last: bool) -> str:
        before = self._between(self._start, self._read)
        # Decode up to the last complete character. The next one may have begun in up to three tokens; if none of
        # these positions ends a character, the bytes are not valid text.
        for stop in range(end, end - MAX_CHARACTER_BYTES, -1):
            whole = self._between(self._start, stop)
            if is_last or not whole.endswith(HALF):
                break
        if stop <= self._read:
            return ""
        self._start, self._read = self._read, stop
        return whole[len(before) :]

    def _between(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True) if end > start else ""

    def _cut(self, fresh: str, known: int, is_last: bool, may_stop: bool) -> str:
        """End before the first stop string; hold back an end that may be the start of one.

        The first ``known`` characters were held back: a stop string within them was completed when it did not count.
        """
        begins = (fresh.find(stop, max(0, known + 1 - len(stop))) for stop in self._stops)
        found = [at for at in begins if at >= 0]
        if found and may_stop:
            self.stopped = True
            return fresh[: min(found)]
        if not is_last:
            longest = max(len(stop) for stop in self._stops) - 1
            for at in range(max(0, len(fresh) - longest), len(fresh)):
                if any(stop.startswith(fresh[at:]) for stop in self._stops):
                    self._held = fresh[at:]
                    return fresh[:at]
        return fresh
