"""From requests to token ids: chat templates, limits, and the keys by which prompts that begin alike share pages."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from windrow.errors import InvalidInput, WindrowError
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.models.token_counts import TextLimit
from windrow.scheduler.tasks.generate import (
    GenerateCall,
    GenerateParameters,
    read_call,
    require_answer_fits,
    require_prompt_fits,
)
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.generation.constraints import CompiledSchema, SchemaCompiler
from windrow.worker.engines.text.tokenization import cut_roughly


@dataclass(frozen=True, slots=True)
class GenerateInput:
    """One request made ready; what `Prepared.data` is for models that generate."""

    ids: list[int]
    #: For each full page of the prompt, what stands for all its tokens up to there.
    page_keys: tuple[bytes, ...]
    parameters: GenerateParameters
    #: New tokens of each choice, at most.
    max_tokens: int
    #: One for each choice.
    seeds: tuple[int, ...]
    #: The schema that the text is held to, if any.
    grammar: CompiledSchema | None = None


class PromptPreparer:
    """Checks and tokenises prompts for one model. Safe beside steps: the tokenizer lets go of the GIL."""

    def __init__(
        self, limit: TextLimit, folder: Path, context_tokens: int, page_tokens: int, schemas: SchemaCompiler
    ) -> None:
        """``folder`` holds the chat template; prompt and answer together have at most ``context_tokens``."""
        self._limit = limit
        self._folder = folder
        self._context_tokens = context_tokens
        self._page_tokens = page_tokens
        self._schemas = schemas
        self._chat: Any = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self._limit.tokenizer

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Same length and order as ``inputs``; a bad one is a `Failed`. `Prepared.data` is a `GenerateInput`."""
        return [self._prepared(*one) for one in zip(inputs, parameters, strict=True)]

    def _prepared(self, value: Any, parameters: Mapping[str, Any]) -> Prepared | Failed:
        try:
            call = read_call(value, parameters)
            require_answer_fits(call.parameters, self._context_tokens)
            ids, max_tokens = self._fitted(self._ids(call), call.parameters)
            grammar = self._grammar(call.parameters)
        except WindrowError as error:
            return Failed(error)
        wishes = call.parameters
        first = secrets.randbits(63) if wishes.seed is None else wishes.seed
        made = GenerateInput(
            ids=ids,
            page_keys=page_keys(ids, self._page_tokens),
            parameters=wishes,
            max_tokens=max_tokens,
            # Choices differ, and the first is what the seed gives alone.
            seeds=tuple((first + index * 0x9E3779B97F4A7C15) & ((1 << 63) - 1) for index in range(wishes.n)),
            grammar=grammar,
        )
        return Prepared(tokens=len(ids), data=made)

    def _ids(self, call: GenerateCall) -> list[int]:
        prompt, truncate = call.prompt, call.parameters.truncate
        if prompt.prompt_ids is not None:
            size = self._schemas.vocabulary
            beyond = [token for token in prompt.prompt_ids if token >= size]
            if beyond:
                raise InvalidInput(f"input.prompt_ids: token {beyond[0]} is not among the model's {size}")
            return prompt.prompt_ids
        if prompt.messages is not None:
            text = self._rendered([turn.model_dump() for turn in prompt.messages])
            return self._encoded(text, added=False, truncate=truncate)
        return self._encoded(prompt.prompt or "", added=True, truncate=truncate)

    def _encoded(self, text: str, *, added: bool, truncate: bool) -> list[int]:
        if truncate:
            text = cut_roughly(text, self._context_tokens, keeps_start=False)
        else:
            self._limit.require_countable(text, "input")
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=added).ids
        except BaseException as error:  # A panic inside the tokenizer derives from BaseException.
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise InvalidInput(f"input: the tokenizer cannot read it: {error}") from None
        if not ids:
            raise InvalidInput("input: the prompt has no tokens; this model takes at least one")
        return ids

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        """Put a chat through the model's own template; OpenAI's newer name of the role system is told only to those
        that know it.
        """
        if self._chat is None:
            self._chat = AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        if not self._chat.chat_template:
            raise InvalidInput("input.messages: this model has no chat template; it takes prompt or prompt_ids")
        if "developer" not in str(self._chat.chat_template):
            messages = [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in messages]
        try:
            text = self._chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # Templates raise what they like, such as for roles that they do not know.
            raise InvalidInput(f"input.messages: the model's chat template does not take them: {error}") from None
        assert isinstance(text, str)
        return text

    def _grammar(self, wishes: GenerateParameters) -> CompiledSchema | None:
        if wishes.json_schema is None:
            return None
        if wishes.ignore_eos or wishes.min_tokens:
            raise InvalidInput("parameters.schema: an answer ends where it meets it; drop ignore_eos and min_tokens")
        return self._schemas.compile(wishes.json_schema)

    def _fitted(self, ids: list[int], wishes: GenerateParameters) -> tuple[list[int], int]:
        """The prompt, cut where that was asked for, and how many new tokens there may be."""
        room = self._context_tokens
        if not wishes.truncate:
            require_prompt_fits(len(ids), wishes, room)
        elif len(ids) + wishes.reserved_tokens > room:
            # Where nothing was said of the answer, it gets its usual room.
            ids = ids[-max(1, room - wishes.wanted_tokens) :]
        return ids, min(wishes.wanted_tokens, room - len(ids))


def page_keys(ids: Sequence[int], page_tokens: int) -> tuple[bytes, ...]:
    """For each full page, a digest of all tokens up to its end: prompts share a page only where all of those agree."""
    raw = np.asarray(ids, dtype=np.int32).tobytes()
    size = 4 * page_tokens
    keys: list[bytes] = []
    key = b""
    for end in range(size, len(raw) + 1, size):
        key = blake2b(key + raw[end - size : end], digest_size=16).digest()
        keys.append(key)
    return tuple(keys)
