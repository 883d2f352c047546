"""Token masks that hold generated text to a JSON schema, by llguidance (the extra ``schema``).

The mask of a token depends on the token before it, which the host has to know. It is computed while the device computes
the logits that it applies to, so the host waits for the tokens only, and only if a row has a schema.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from windrow.errors import InvalidInput
from windrow.scheduler.json_schema.grammar import error_reason, grammar_of, started_matcher

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

#: Schemas of the last requests that are kept compiled. Each takes up to some 25 MB, usually less than one.
MAX_COMPILED = 16


class CompiledSchema:
    """A matcher at the start of the text, to be copied; the copies share the states of the lexer found so far."""

    def __init__(self, matcher: LLMatcher, eos_ids: frozenset[int]) -> None:
        self.matcher = matcher
        self.eos_ids = eos_ids
        #: Set when the states reached their limit: each further copy would fail too.
        self.is_exhausted = False


class SchemaCompiler:
    """Compiles schemas for one model's vocabulary, one at a time, and caches the last ones. Safe for several threads.

    llguidance releases the GIL meanwhile.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, eos_ids: Iterable[int]) -> None:
        """Read the vocabulary at once, because that holds the GIL: a second for 128,000 tokens."""
        self.vocabulary = vocabulary
        self._eos_ids = frozenset(eos_ids)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, CompiledSchema] = OrderedDict()
        self._tokenizer: LLTokenizer | None = None
        self._unsupported = ""
        if importlib.util.find_spec("llguidance") is not None:
            from llguidance import LLTokenizer

            try:
                self._tokenizer = LLTokenizer(tokenizer.to_str(), n_vocab=vocabulary, eos_token=sorted(self._eos_ids))
            except ValueError as error:
                self._unsupported = error_reason(str(error))

    def compile(self, schema: Mapping[str, Any]) -> CompiledSchema:
        """Return what `Constraint` takes. Raises `InvalidInput` if no text can be held to ``schema``."""
        key = json.dumps(schema)
        with self._lock:
            compiled = self._compiled.pop(key, None)
            if compiled is None or compiled.is_exhausted:
                grammar = grammar_of(schema)
                if self._tokenizer is None:
                    raise InvalidInput(
                        f"parameters.schema: llguidance does not support this model's tokenizer: {self._unsupported}"
                    )
                compiled = CompiledSchema(started_matcher(grammar, self._tokenizer), self._eos_ids)
            self._compiled[key] = compiled
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
            return compiled


class Constraint:
    """The position of one text in the grammar of its schema."""

    def __init__(self, compiled: CompiledSchema) -> None:
        self._compiled = compiled
        self._matcher = compiled.matcher.deep_copy()
        self._has_ended = False
        self._drawn: tuple[Tensor, int, torch.cuda.Event | None] | None = None

    def drew(self, tokens: Tensor, row: int, arrived: torch.cuda.Event | None) -> None:
        """Note that the text's next token is ``tokens[row]``, which is in host memory after ``arrived``."""
        self._drawn = (tokens, row, arrived)

    def fill(self, masks: Tensor, row: int) -> str | None:
        """Clear the bits of the tokens that may not come next in ``masks[row]``; wait for the token before them.

        After the end of the text, all tokens may come. Returns an error, or None.
        """
        if self._drawn is not None:
            tokens, index, arrived = self._drawn
            if arrived is not None:
                arrived.synchronize()
            token = int(tokens[index])
            self._drawn = None
            self._has_ended = self._has_ended or token < 0 or token in self._compiled.eos_ids
            if not self._has_ended:
                self._matcher.consume_token(token)
        if self._has_ended:
            return None
        mask = masks[row]
        self._matcher.unsafe_compute_mask_ptr(mask.data_ptr(), mask.numel() * mask.element_size())
        if not self._matcher.is_error():
            return None
        self._compiled.is_exhausted = True
        return (
            f"parameters.schema: the text cannot be held to it any further: {error_reason(self._matcher.get_error())}"
        )


def empty_masks(rows: int, vocabulary: int) -> Tensor:
    """Return (rows, words) int32 in host memory with one bit per token, all of them set."""
    return torch.full((rows, -(-vocabulary // 32)), -1, dtype=torch.int32)


def unpacked(masks: Tensor, vocabulary: int) -> Tensor:
    """Return the bits of (rows, words) int32 as (rows, vocabulary) bool, on the same device."""
    bits = masks[:, :, None] >> torch.arange(32, dtype=torch.int32, device=masks.device)
    return (bits & 1).flatten(1)[:, :vocabulary].bool()
