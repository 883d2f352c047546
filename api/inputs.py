"""Is this input one that the model takes, and what does it cost? Counted without torch, with bounded work."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from windrow.errors import NO_TOKENS, TOO_LONG_ADVICE, InputTooLong, InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.fairness import estimate_cost_tokens
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.models.token_counts import TextLimit, load_text_limit
from windrow.scheduler.tasks import TASKS, Parameters, Text
from windrow.scheduler.tasks.base import characters, require_request_size
from windrow.scheduler.tasks.generate import GenerateParameters, read_prompt, require_answer_fits, require_prompt_fits

#: Texts that are checked before other clients of this process get a turn.
TEXTS_PER_TURN = 16


class InputCheck:
    """Checks the inputs of one model; its tokenizer is loaded at the first text that needs one."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._task = TASKS[settings.task]
        self._limit: TextLimit | None = None
        self._lock = threading.Lock()
        self._checked = 0

    def read_parameters(self, value: Mapping[str, Any] | None) -> Parameters:
        """Check the parameters of a call. Raises `InvalidInput`, or `ModelUnusable` where the model is not there."""
        parameters: Parameters = self._task.read_parameters(value)
        if self._task.check_model is not None and parameters.sent():
            self._task.check_model(parameters, self._folder)
        return parameters

    def cost_tokens(self, value: object, parameters: Parameters, *, where: str) -> int:
        """Return what ``value`` costs in tokens; ``where`` names it in errors.

        Raises `InvalidInput`, `InputTooLong`, or `ModelUnusable` where there is no tokenizer to count with.
        """
        if isinstance(parameters, GenerateParameters) and self._task.has_tokenizer:
            return self._prompt_cost_tokens(value, parameters, where)
        texts = self._task.texts(value, parameters, where)
        more = self._task.extra_tokens(value, parameters)
        if not self._task.has_tokenizer:
            return more + sum(estimate_cost_tokens(characters(text)) for text in texts)
        limit = self.text_limit()
        texts = self._task.with_prompt(texts, limit.prompt)
        if parameters.truncate:
            total = self._task.estimate_tokens(texts, limit.max_input_tokens)
        else:
            total = self._count(texts, limit, where)
        require_request_size(len(texts), total, self._settings.max_batch_tokens, where)
        return more + total

    def _count(self, texts: Sequence[Text], limit: TextLimit, where: str) -> int:
        # The text that all pairs of a request share is counted once.
        counted: dict[str, int] = {}
        total = 0
        for at, text in enumerate(texts):
            total += _cost_tokens(text, limit, counted, self._task.text_name(where, at))
            self._let_others_in()
        return total

    def _prompt_cost_tokens(self, value: object, parameters: GenerateParameters, where: str) -> int:
        """The same for a prompt, which shares the model's context with its answer.

        A chat is counted without what its template adds, so the worker may still find it too long.
        """
        limit, prompt = self.text_limit(), read_prompt(value, where)
        context_tokens = limit.max_input_tokens
        require_answer_fits(parameters, context_tokens)
        more = self._task.extra_tokens(value, parameters)
        if parameters.truncate:
            return more + self._task.estimate_tokens(prompt.texts, context_tokens)
        texts, ids = prompt.read_texts, len(prompt.prompt_ids or ())
        require_prompt_fits(ids, parameters, context_tokens, where)
        added = limit.added_tokens if prompt.prompt is not None else 0
        if _most_tokens(texts) + added + parameters.reserved_tokens <= context_tokens and _are_ascii(texts):
            return more + self._task.estimate_tokens(prompt.texts, context_tokens)
        limit.require_countable("".join(texts), where)
        tokens = added
        for text in texts:
            tokens += limit.count_plain(text)
            self._let_others_in()
        require_prompt_fits(tokens + ids, parameters, context_tokens, where)
        return more + tokens

    def _let_others_in(self) -> None:
        self._checked += 1
        if self._checked % TEXTS_PER_TURN == 0:
            time.sleep(0)

    @cached_property
    def _folder(self) -> Path:
        return resolve_source(self._settings.source, weights=False)

    def text_limit(self) -> TextLimit:
        """The model's tokenizer and limit, loaded once."""
        if self._limit is None:
            with self._lock:
                if self._limit is None:
                    self._limit = load_text_limit(self._settings.source, self._settings.max_input_tokens)
        return self._limit


def is_surely_within(text: Text, limit: TextLimit) -> bool:
    """Whether ``text`` is within the limit whatever its tokens turn out to be.

    Only said of ASCII: every Unicode normal form and lower case leave it as long as it is, and a WordPiece, BPE or
    Unigram token covers at least one of its characters, which are bytes too, so byte-level tokens count the same. One
    more is for the space that some tokenizers put in front. Elsewhere one character can become many (U+FDFA becomes 18
    under NFKC, and each may fall back to 2 bytes or more), so there is no bound worth having. A tokenizer with a
    normalizer of its own making could still outgrow this; the worker counts again and is the one that decides.
    """
    parts = (text,) if isinstance(text, str) else text
    return _most_tokens(parts) + limit.added_to(text) <= limit.max_input_tokens and _are_ascii(parts)


def _most_tokens(texts: Sequence[str]) -> int:
    return sum(len(text) + 1 for text in texts)


def _are_ascii(texts: Sequence[str]) -> bool:
    return all(text.isascii() for text in texts)


def _cost_tokens(text: Text, limit: TextLimit, counted: dict[str, int], name: str) -> int:
    # Where nothing is added, a text may turn out to have no tokens.
    if limit.added_to(text) and is_surely_within(text, limit):
        return estimate_cost_tokens(characters(text))
    limit.require_countable(text, name)
    tokens = limit.count(text) if isinstance(text, str) else _count_pair(text, limit, counted)
    most = limit.max_input_tokens
    if not tokens:
        raise InvalidInput(f"{name}: {NO_TOKENS}")
    if tokens > most:
        raise InputTooLong(f"{name}: {tokens} tokens, and the model takes {most}; {TOO_LONG_ADVICE}")
    return tokens


def _count_pair(pair: tuple[str, str], limit: TextLimit, counted: dict[str, int]) -> int:
    for text in pair:
        if text not in counted:
            counted[text] = limit.count_plain(text)
    return sum(counted[text] for text in pair) + limit.added_to(pair)
