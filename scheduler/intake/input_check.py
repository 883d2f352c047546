"""`InputCheck`: validates an input and computes its cost in tokens, without torch and with bounded work."""

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
from windrow.scheduler.tasks.generate import GenerateParameters, Prompt, require_answer_fits, require_prompt_fits

#: Number of texts whose tokens are counted before other greenlets of this process get a turn.
TEXTS_PER_TURN = 16


class InputCheck:
    """Checks the inputs of one model. The tokenizer is loaded when a text needs it for the first time."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._task = TASKS[settings.task]
        self._limit: TextLimit | None = None
        self._lock = threading.Lock()
        self._counted = 0

    def read_parameters(self, value: Mapping[str, Any] | None) -> Parameters:
        """Validate the parameters of a call. Raises `InvalidInput`, or `ModelUnusable` if the model is not there."""
        parameters: Parameters = self._task.read_parameters(value)
        if self._task.check_model is not None and parameters.sent():
            self._task.check_model(parameters, self._folder)
        return parameters

    def cost_tokens(self, value: object, parameters: Parameters, *, where: str) -> int:
        """Return what ``value`` costs in tokens; ``where`` is its name in errors.

        Raises `InvalidInput`, `InputTooLong`, or `ModelUnusable` if there is no tokenizer to count with.
        """
        value = self._task.parse_input(value, where)
        if isinstance(value, Prompt) and isinstance(parameters, GenerateParameters) and self._task.has_tokenizer:
            return self._prompt_cost_tokens(value, parameters, where)
        texts = self._task.texts(value, parameters, where)
        extra = self._task.extra_tokens(value, parameters)
        if not self._task.has_tokenizer:
            return extra + sum(estimate_cost_tokens(characters(text)) for text in texts)
        limit = self.text_limit()
        texts = self._task.with_prompt(texts, limit.prompt)
        if parameters.truncate:
            total = self._task.estimate_tokens(texts, limit.max_input_tokens)
        else:
            total = self._count(texts, limit, where)
        require_request_size(len(texts), total, self._settings.max_batch_tokens, where)
        return extra + total

    def _count(self, texts: Sequence[Text], limit: TextLimit, where: str) -> int:
        # A text that all pairs of a request share is counted once.
        counted: dict[str, int] = {}
        total = 0
        for index, text in enumerate(texts):
            total += _cost_tokens(text, limit, counted, self._task.text_name(where, index))
            self._yield_to_others()
        return total

    def _prompt_cost_tokens(self, prompt: Prompt, parameters: GenerateParameters, where: str) -> int:
        """Return the cost of a prompt, which shares the model's context with its answer.

        The tokens that a chat template adds are not counted, so the worker may still find a chat too long.
        """
        limit = self.text_limit()
        context_tokens = limit.max_input_tokens
        require_answer_fits(parameters, context_tokens)
        extra = self._task.extra_tokens(prompt, parameters)
        if parameters.truncate:
            return extra + self._task.estimate_tokens(prompt.texts, context_tokens)
        texts, id_count = prompt.read_texts, len(prompt.prompt_ids or ())
        require_prompt_fits(id_count, parameters, context_tokens, where)
        added = limit.added_tokens if prompt.prompt is not None else 0
        if _max_tokens(texts) + added + parameters.reserved_tokens <= context_tokens and _are_ascii(texts):
            return extra + self._task.estimate_tokens(prompt.texts, context_tokens)
        limit.require_countable("".join(texts), where)
        tokens = added
        for text in texts:
            tokens += limit.count_plain(text)
            self._yield_to_others()
        require_prompt_fits(tokens + id_count, parameters, context_tokens, where)
        return extra + tokens

    def _yield_to_others(self) -> None:
        self._counted += 1
        if self._counted % TEXTS_PER_TURN == 0:
            time.sleep(0)

    @cached_property
    def _folder(self) -> Path:
        return resolve_source(self._settings.source, weights=False)

    def text_limit(self) -> TextLimit:
        """Return the model's tokenizer and limit, which are loaded once."""
        if self._limit is None:
            with self._lock:
                if self._limit is None:
                    self._limit = load_text_limit(self._settings.source, self._settings.max_input_tokens)
        return self._limit


def is_surely_within(text: Text, limit: TextLimit) -> bool:
    """Return whether ``text`` is certain to be within the limit, without counting its tokens.

    A text of n ASCII characters has at most n + 1 tokens: Unicode normal forms and lower case keep its length, each
    character is one byte, and a WordPiece, BPE or Unigram token, also a byte-level one, covers at least one of them.
    The additional token is the space that some tokenizers put in front. For other texts no bound is useful, because one
    character can become many (U+FDFA becomes 18 under NFKC, and each may fall back to 2 bytes or more). A tokenizer
    with an unusual normalizer could exceed the bound; the worker counts again, and its count decides.
    """
    parts = (text,) if isinstance(text, str) else text
    return _max_tokens(parts) + limit.added_to(text) <= limit.max_input_tokens and _are_ascii(parts)


def _max_tokens(texts: Sequence[str]) -> int:
    return sum(len(text) + 1 for text in texts)


def _are_ascii(texts: Sequence[str]) -> bool:
    return all(text.isascii() for text in texts)


def _cost_tokens(text: Text, limit: TextLimit, counted: dict[str, int], name: str) -> int:
    # If no special tokens are added, a text may have no tokens at all, so it is counted.
    if limit.added_to(text) and is_surely_within(text, limit):
        return estimate_cost_tokens(characters(text))
    limit.require_countable(text, name)
    tokens = limit.count(text) if isinstance(text, str) else _count_pair(text, limit, counted)
    if not tokens:
        raise InvalidInput(f"{name}: {NO_TOKENS}")
    if tokens > limit.max_input_tokens:
        raise InputTooLong(f"{name}: {tokens} tokens, and the model takes {limit.max_input_tokens}; {TOO_LONG_ADVICE}")
    return tokens


def _count_pair(pair: tuple[str, str], limit: TextLimit, counted: dict[str, int]) -> int:
    for text in pair:
        if text not in counted:
            counted[text] = limit.count_plain(text)
    return sum(counted[text] for text in pair) + limit.added_to(pair)
