"""Is this input one that the model takes, and what does it cost? Counted without torch, with bounded work."""

from __future__ import annotations

import threading

from api.body import json_type
from scheduler.core.errors import InputTooLong, InvalidInput
from scheduler.core.fairness import estimate_cost_tokens
from scheduler.settings import ModelSettings
from scheduler.tokens import TextLimit, load_text_limit

#: Texts with more characters than so many times the model's limit in tokens are not counted, but refused: no language
#: comes near it (English has 4 to 5 characters a token), and counting holds up everybody else of this process.
COUNTED_CHARACTERS_PER_TOKEN = 32


class InputCheck:
    """Checks the inputs of one model; its tokenizer is loaded at the first text that needs one."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._limit: TextLimit | None = None
        self._lock = threading.Lock()

    def cost_tokens(self, value: object, *, truncate: bool, where: str) -> int:
        """Return what ``value`` costs in tokens; ``where`` names it in errors.

        Raises `InvalidInput`, `InputTooLong`, or `ModelUnusable` where there is no tokenizer to count with.
        """
        if not isinstance(value, str):
            raise InvalidInput(f"{where}: a model of task {self._settings.task} takes a string, not {json_type(value)}")
        limit = self.text_limit()
        if truncate:
            return min(estimate_cost_tokens(len(value)), limit.max_input_tokens)
        if is_surely_within(value, limit):
            return estimate_cost_tokens(len(value))
        advice = "shorten it, or send parameters.truncate: true"
        if len(value) > COUNTED_CHARACTERS_PER_TOKEN * limit.max_input_tokens:
            raise InputTooLong(
                f"{where}: {len(value)} characters, and the model takes {limit.max_input_tokens} tokens; {advice}"
            )
        tokens = limit.count(value)
        if tokens > limit.max_input_tokens:
            raise InputTooLong(f"{where}: {tokens} tokens, and the model takes {limit.max_input_tokens}; {advice}")
        return tokens

    def text_limit(self) -> TextLimit:
        """The model's tokenizer and limit, loaded once."""
        if self._limit is None:
            with self._lock:
                if self._limit is None:
                    self._limit = load_text_limit(self._settings.source, self._settings.max_input_tokens)
        return self._limit


def is_surely_within(text: str, limit: TextLimit) -> bool:
    """Whether ``text`` is within the limit whatever its tokens turn out to be.

    Only said of ASCII: every Unicode normal form and lower case leave it as long as it is, and a WordPiece, BPE or
    Unigram token covers at least one of its characters, which are bytes too, so byte-level tokens count the same. One
    more is for the space that some tokenizers put in front. Elsewhere one character can become many (U+FDFA becomes 18
    under NFKC, and each may fall back to 2 bytes or more), so there is no bound worth having. A tokenizer with a
    normalizer of its own making could still outgrow this; the worker counts again and is the one that decides.
    """
    return text.isascii() and len(text) + 1 + limit.added_tokens <= limit.max_input_tokens
