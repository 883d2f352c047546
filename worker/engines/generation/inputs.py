"""Prepares requests: validation, chat templates, token ids, and the keys by which equal prefixes share pages."""

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
from windrow.scheduler.models.wordpiece import reraise_if_fatal
from windrow.scheduler.tasks import generate
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.generation.constraints import CompiledSchema, SchemaCompiler
from windrow.worker.engines.text.tokenization import cut_roughly


@dataclass(frozen=True, slots=True)
class GenerateInput:
    """One prepared request: `Prepared.data` of models that generate."""

    ids: list[int]
    #: One key per full page of the prompt, which stands for all tokens up to the end of the page.
    page_keys: tuple[bytes, ...]
    parameters: generate.GenerateParameters
    #: Maximum new tokens of each choice.
    max_tokens: int
    #: One seed per choice.
    seeds: tuple[int, ...]
    #: The schema that the text is held to, if any.
    grammar: CompiledSchema | None = None


class PromptPreparer:
    """Validates and tokenizes prompts for one model. Steps can run meanwhile: the tokenizer releases the GIL."""

    def __init__(
        self, limit: TextLimit, folder: Path, context_tokens: int, page_tokens: int, schemas: SchemaCompiler
    ) -> None:
        """``folder`` contains the chat template; prompt and new tokens together have at most ``context_tokens``."""
        self._limit = limit
        self._folder = folder
        self._context_tokens = context_tokens
        self._page_tokens = page_tokens
        self._schemas = schemas
        self._chat: Any = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._limit.tokenizer

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Return one item per input, in the same order: `Prepared` with a `GenerateInput`, or `Failed`."""
        return [self._prepared(*request) for request in zip(inputs, parameters, strict=True)]

    def _prepared(self, value: Any, parameters: Mapping[str, Any]) -> Prepared | Failed:
        try:
            call = generate.read_call(value, parameters)
            generate.require_answer_fits(call.parameters, self._context_tokens)
            ids, max_tokens = self._fitted(self._ids(call), call.parameters)
            grammar = self._grammar(call.parameters)
        except WindrowError as error:
            return Failed(error)
        first = secrets.randbits(63) if call.parameters.seed is None else call.parameters.seed
        data = GenerateInput(
            ids=ids,
            page_keys=page_keys(ids, self._page_tokens),
            parameters=call.parameters,
            max_tokens=max_tokens,
            # The first choice has the seed of a request with one choice.
            seeds=tuple((first + index * 0x9E3779B97F4A7C15) & ((1 << 63) - 1) for index in range(call.parameters.n)),
            grammar=grammar,
        )
        return Prepared(tokens=len(ids), data=data)

    def _ids(self, call: generate.GenerateCall) -> list[int]:
        prompt, truncate = call.prompt, call.parameters.truncate
        if prompt.prompt_ids is not None:
            size = self._schemas.vocabulary
            beyond = [token for token in prompt.prompt_ids if token >= size]
            if beyond:
                raise InvalidInput(
                    f"input.prompt_ids: token {beyond[0]} is not in the vocabulary, which has {size} tokens"
                )
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
            reraise_if_fatal(error)
            raise InvalidInput(f"input: the tokenizer failed: {error}") from None
        if not ids:
            raise InvalidInput("input: the prompt has no tokens; this model takes at least one")
        return ids

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        """Apply the model's chat template.

        The role ``developer``, OpenAI's newer name of ``system``, is replaced unless the template mentions it.
        """
        if self._chat is None:
            self._chat = AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        if not self._chat.chat_template:
            raise InvalidInput("input.messages: this model has no chat template; it takes prompt or prompt_ids")
        if "developer" not in str(self._chat.chat_template):
            messages = [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in messages]
        try:
            text = self._chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # Templates raise any exception, such as for unknown roles.
            raise InvalidInput(f"input.messages: the model's chat template refused them: {error}") from None
        assert isinstance(text, str)
        return text

    def _grammar(self, parameters: generate.GenerateParameters) -> CompiledSchema | None:
        if parameters.json_schema is None:
            return None
        if parameters.ignore_eos or parameters.min_tokens:
            raise InvalidInput(
                "parameters.schema: a text ends once it meets its schema; omit ignore_eos and min_tokens"
            )
        return self._schemas.compile(parameters.json_schema)

    def _fitted(self, ids: list[int], parameters: generate.GenerateParameters) -> tuple[list[int], int]:
        """Return the prompt, cut if ``truncate`` asks for it, and the maximum number of new tokens."""
        room = self._context_tokens
        if not parameters.truncate:
            generate.require_prompt_fits(len(ids), parameters, room)
        elif len(ids) + parameters.reserved_tokens > room:
            ids = ids[-max(1, room - parameters.wanted_tokens) :]
        return ids, min(parameters.wanted_tokens, room - len(ids))


def page_keys(ids: Sequence[int], page_tokens: int) -> tuple[bytes, ...]:
    """Return a digest of all tokens up to its end for each full page: prompts share the pages of equal prefixes."""
    raw = np.asarray(ids, dtype=np.int32).tobytes()
    size = 4 * page_tokens
    keys: list[bytes] = []
    key = b""
    for end in range(size, len(raw) + 1, size):
        key = blake2b(key + raw[end - size : end], digest_size=16).digest()
        keys.append(key)
    return tuple(keys)
