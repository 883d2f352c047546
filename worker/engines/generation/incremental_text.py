"""From token ids to text as they come, without half characters and without what may begin a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

#: What a tokenizer shows for bytes that are no character, or not yet.
HALF = "\ufffd"
#: Of one character.
MOST_BYTES = 4


class IncrementalText:
    """The text of one sequence that grows. Costs two short calls of the tokenizer, however long the text is."""

    __slots__ = ("_held", "_ids", "_read", "_start", "_stops", "_tokenizer", "stopped", "text")

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = ()) -> None:
        """``ids`` is the list that the sequence's tokens are appended to."""
        self._tokenizer, self._ids, self._stops = tokenizer, ids, stops
        # Tokens before ``_start`` change nothing any more; those before ``_read`` have been shown.
        self._start = self._read = 0
        self._held = ""
        #: What was shown, and whether a stop string ended it.
        self.text = ""
        self.stopped = False

    def advance(self, end: int, *, is_last: bool = False, may_stop: bool = True) -> str:
        """The new text of the tokens up to ``end``; with ``is_last`` also what was held back.

        Once `stopped`, nothing comes any more. A stop string that is complete while not ``may_stop`` is text like any
        other; one that is completed later ends the text, wherever it began.
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
        # Up to the last whole character, of which at most so many tokens may be the beginning of the next one; where
        # none of those places is the end of a character, what comes before them is no character at all.
        for stop in range(end, end - MOST_BYTES, -1):
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
        """End before the first stop string; hold back what may be the start of one.

        The first ``known`` characters were held back: a stop string within them was complete when none counted.
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
