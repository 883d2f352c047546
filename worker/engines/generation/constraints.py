"""Answers that meet a JSON schema, by xgrammar (the extra ``schema``): before each token, which ones may come.

The mask of a token depends on the one before it, which the host has to know: it is made while the device computes the
logits that it is laid over, so that only the tokens themselves are waited for, and only where some row has a schema.
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windrow.errors import InvalidInput

#: What the grammars of the schemas seen last may take, and what is known of rules that they share.
CACHE_BYTES = 256 << 20
#: A step needs the processor too: of two cores a schema gets one.
COMPILE_THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))


class SchemaCompiler:
    """Compiles schemas for one model's vocabulary, one at a time, and keeps those seen last. Safe for several threads.

    Python goes on meanwhile: the library lets go of the GIL.
    """

    def __init__(self, folder: Path, vocabulary: int, eos_ids: Iterable[int], cache_bytes: int = CACHE_BYTES) -> None:
        """``folder`` holds the tokenizer; nothing is read before the first schema comes."""
        self.vocabulary = vocabulary
        self._cache_bytes = cache_bytes
        self._folder, self._eos_ids = folder, sorted(eos_ids)
        self._compiler: Any = None
        self._lock = threading.Lock()

    @property
    def cached_bytes(self) -> int:
        """What is kept now."""
        return 0 if self._compiler is None else self._compiler.get_cache_size_bytes()

    def compile(self, schema: Mapping[str, Any]) -> Any:
        """A grammar for `Constraint`. Raises `InvalidInput` for what is no schema, and for one that nothing meets."""
        if importlib.util.find_spec("xgrammar") is None:
            raise InvalidInput(
                "parameters.schema: this worker was installed without the extra 'schema'; "
                "it takes none (pip install 'windrow[schema]')"
            )
        with self._lock:
            try:
                if self._compiler is None:
                    self._compiler = self._make()
                # Without free white space, which some models never leave again.
                return self._compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
            except RuntimeError as error:
                said = str(error).strip().splitlines()[-1].split(": ", 1)[-1]
                raise InvalidInput(f"parameters.schema: no answer can be held to it: {said}") from None

    def _make(self) -> Any:
        import xgrammar
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=self.vocabulary, stop_token_ids=self._eos_ids
        )
        return xgrammar.GrammarCompiler(info, max_threads=COMPILE_THREADS, cache_limit_bytes=self._cache_bytes)


class Constraint:
    """Where one answer is in its grammar."""

    def __init__(self, grammar: Any) -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(grammar)
        self._drawn: tuple[Tensor, int, torch.cuda.Event | None] | None = None

    def drew(self, tokens: Tensor, row: int, arrived: torch.cuda.Event | None) -> None:
        """The answer's next token will be ``tokens[row]``, in host memory once ``arrived`` is over."""
        self._drawn = (tokens, row, arrived)

    def fill(self, masks: Tensor, row: int) -> None:
        """Set the bits of the tokens that may come; waits for the last one. After the end anything may."""
        if self._drawn is not None:
            tokens, at, arrived = self._drawn
            if arrived is not None:
                arrived.synchronize()
            token = int(tokens[at])
            self._drawn = None
            if token >= 0 and not self._matcher.is_terminated():
                self._matcher.accept_token(token)
        if not self._matcher.is_terminated():
            self._matcher.fill_next_token_bitmask(masks, row)


def empty_masks(rows: int, vocabulary: int) -> Tensor:
    """(rows, words) int32, on the host: a bit for each token, all set."""
    return torch.full((rows, -(-vocabulary // 32)), -1, dtype=torch.int32)


def unpacked(masks: Tensor, vocabulary: int) -> Tensor:
    """(rows, words) int32 -> (rows, vocabulary) bool, on the same device."""
    bits = masks[:, :, None] >> torch.arange(32, dtype=torch.int32, device=masks.device)
    return (bits & 1).flatten(1)[:, :vocabulary].bool()
