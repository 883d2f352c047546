"""Tokenizes the inputs of requests: one tokenizer call for many texts; a bad input fails without the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import orjson
from tokenizers import Encoding, Tokenizer

from windrow.errors import NO_TOKENS, TOO_LONG_ADVICE, InputTooLong, InvalidInput, ModelUnusable
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.models.files import read_object
from windrow.scheduler.models.token_counts import TextLimit
from windrow.scheduler.models.wordpiece import reraise_if_fatal
from windrow.scheduler.tasks import Task, Text
from windrow.scheduler.tasks.base import characters
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.device.token_batches import Ids, Tokens

#: Characters read of a text that is to be truncated, per token of the limit. English has 4 to 5 characters per token;
#: only runs of spaces or words of hundreds of letters end up shorter than the limit.
CHARACTERS_PER_TOKEN = 64
#: The text is cut at a space among the last characters of this number, if there is one. Some text, such as Chinese or
#: compact JSON, has none.
CHARACTERS_PER_WORD = 256
#: Maximum number of texts per tokenizer call: an `Encoding` takes a hundred bytes per token.
TEXTS_PER_CALL = 1024
#: Start of the tokenizer's error if the text of a pair that may be truncated is too short for it.
NO_ROOM = "Truncation error"
#: Maximum number of different parameters that are cached.
CACHED_PARAMETERS = 256


class TextRequest(NamedTuple):
    """One tokenized request: `Prepared.data` of the engines for text."""

    #: An object of the task's parameters class.
    parameters: Any
    texts: Sequence[Text]
    #: One per text.
    sequences: Sequence[Tokens]
    #: One `tokenizers.Encoding` with offsets per text; empty if the task does not need offsets.
    encodings: Sequence[Any] = ()
    #: Characters at the start of the text that were cut off before tokenizing; offsets do not count them.
    skipped: int = 0


class TextPreparer:
    """Validates and tokenizes texts for one model. Threads may share it; the tokenizer releases the GIL."""

    def __init__(
        self, task: Task[Any], limit: TextLimit, folder: Path, *, types: bool = False, offsets: bool = False
    ) -> None:
        """``folder`` has the model's tokenizer_config.json.

        ``types`` and ``offsets`` say whether the engine needs the type and the position in the text of each token.
        """
        self._task = task
        self._types = types
        self._offsets = offsets
        self._limit = limit
        self._max_tokens = limit.max_input_tokens
        # Truncation is a state of the tokenizer, and requests with and without it are mixed: hence two tokenizers.
        # Truncation inside the tokenizer keeps the special tokens, as in transformers and sentence-transformers.
        self._tokenizer = limit.tokenizer
        self._truncating = Tokenizer.from_str(limit.tokenizer.to_str())
        side = str(read_object(folder / "tokenizer_config.json").get("truncation_side", "right"))
        self._keeps_start = side == "right"
        self._truncating.enable_truncation(self._max_tokens, strategy=task.truncation, direction=side)
        #: Parameters by their JSON.
        self._parameters: dict[bytes, Any] = {}
        # Returns ids of single texts only.
        self._wordpiece = None if task.reads_pairs or offsets else limit.wordpiece

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Validate and tokenize; return one item per input, in order. `Prepared.data` is a `TextRequest`.

        Of a text that is to be truncated, only `CHARACTERS_PER_TOKEN` per token are read, because tokenizing megabytes
        would delay other requests for seconds.
        """
        requests = [self._read(value, some) for value, some in zip(inputs, parameters, strict=True)]
        prepared: list[Prepared | Failed | None] = [item if isinstance(item, Failed) else None for item in requests]
        for truncate in (False, True):
            chosen = [
                (index, *item) for index, item in enumerate(requests)
                if not isinstance(item, Failed) and item[1].truncate is truncate
            ]  # fmt: skip
            encodings = self._encode([text for _, texts, _ in chosen for text in texts], truncate)
            for index, texts, options in chosen:
                prepared[index] = self._prepared(texts, options, list(islice(encodings, len(texts))))
        return [item for item in prepared if item is not None]

    def _read(self, value: Any, parameters: Mapping[str, Any]) -> tuple[list[Text], Any] | Failed:
        """Return the texts and the parameters of one request, before tokenizing."""
        try:
            options = self._read_parameters(parameters)
            texts = self._task.with_prompt(self._task.texts(value, options, "input"), self._limit.prompt)
            if not options.truncate:
                for index, text in enumerate(texts):
                    self._limit.require_countable(text, self._task.text_name("input", index))
            return texts, options
        except InvalidInput as error:
            return Failed(error)

    def _read_parameters(self, parameters: Mapping[str, Any]) -> Any:
        """Return the validated parameters, from a cache: most requests of a model have the same."""
        try:
            key = orjson.dumps(parameters)
        except TypeError:  # half a surrogate pair
            return self._task.read_parameters(parameters)
        options = self._parameters.get(key)
        if options is None:
            options = self._task.read_parameters(parameters)
            if len(self._parameters) >= CACHED_PARAMETERS:
                self._parameters.clear()
            self._parameters[key] = options
        return options

    def _prepared(
        self, texts: list[Text], parameters: Any, encodings: Sequence[Encoding | Ids | str]
    ) -> Prepared | Failed:
        sequences = []
        for index, encoding in enumerate(encodings):
            if isinstance(encoding, str) or not 0 < len(encoding) <= self._max_tokens:
                return Failed(self._error(self._task.text_name("input", index), encoding))
            if isinstance(encoding, Encoding):
                types = np.asarray(encoding.type_ids, dtype=np.int64) if self._types else None
                sequences.append(Tokens(np.asarray(encoding.ids, dtype=np.int64), types))
            else:
                sequences.append(Tokens(encoding))
        request = TextRequest(parameters, texts, sequences)
        if self._offsets:
            skipped = self._skipped(texts[0]) if parameters.truncate else 0
            request = request._replace(encodings=encodings, skipped=skipped)
        if len(sequences) == 1:
            return Prepared(len(sequences[0]), request)
        lengths = tuple(map(len, sequences))
        return Prepared(sum(lengths), request, lengths)

    def _error(self, name: str, encoding: Encoding | Ids | str) -> InvalidInput:
        """Return the error for the text ``name``, whose tokenization failed or has a wrong length."""
        if isinstance(encoding, str):
            if encoding.startswith(NO_ROOM):
                return InvalidInput(
                    f"{name}: the label leaves no room for the text, as the model takes {self._max_tokens} tokens; "
                    "truncate shortens the text alone, so shorten the label"
                )
            return InvalidInput(f"{name}: the tokenizer cannot read it: {encoding}")
        if not len(encoding):
            return InvalidInput(f"{name}: {NO_TOKENS}")
        return InputTooLong(
            f"{name}: {len(encoding)} tokens, and the model takes {self._max_tokens}; {TOO_LONG_ADVICE}"
        )

    def _encode(self, texts: Sequence[Text], truncate: bool) -> Iterator[Encoding | Ids | str]:
        """Yield the encoding or the ids of each text, or the tokenizer's error."""
        for start in range(0, len(texts), TEXTS_PER_CALL):
            some = texts[start : start + TEXTS_PER_CALL]
            if truncate:
                some = [self._shortened(text) for text in some]
            ids = self._wordpiece_ids(some, truncate)
            yield from ids or _encode(self._truncating if truncate else self._tokenizer, some, self._offsets)

    def _wordpiece_ids(self, texts: Sequence[Text], truncate: bool) -> list[Ids] | None:
        """Return the ids of ``texts`` from the fast tokenizer; None if it cannot be used for them."""
        if self._wordpiece is None:
            return None
        limit = self._max_tokens if truncate else None
        try:
            return self._wordpiece.encode(cast(Sequence[str], texts), limit, cuts_end=self._keeps_start)
        except ValueError:  # for one of the texts; the other tokenizer finds out which
            return None

    def _shortened(self, text: Text) -> Text:
        if isinstance(text, str):
            return cut_roughly(text, self._max_tokens, keeps_start=self._keeps_start)
        first, second = (cut_roughly(part, self._max_tokens, keeps_start=self._keeps_start) for part in text)
        return first, second

    def _skipped(self, text: Text) -> int:
        return 0 if self._keeps_start else characters(text) - characters(self._shortened(text))


def cut_roughly(text: str, max_tokens: int, *, keeps_start: bool) -> str:
    """Shorten a text that the tokenizer will truncate to ``max_tokens``, to bound the time that tokenizing takes."""
    limit = CHARACTERS_PER_TOKEN * max_tokens
    if len(text) <= limit:
        return text
    # At a space, so that the last word stays whole, but near the limit, so that more than ``max_tokens`` are left.
    near = min(CHARACTERS_PER_WORD, limit // 2)
    kept = text[:limit] if keeps_start else text[-limit:]
    places = range(limit - 1, limit - near, -1) if keeps_start else range(near)
    cut = next((place for place in places if kept[place].isspace()), None)
    return kept if cut is None else kept[:cut] if keeps_start else kept[cut:]


def require_room(limit: TextLimit, text: Text) -> None:
    """Raise `ModelUnusable` if the special tokens of an input like ``text`` fill the whole limit."""
    if limit.max_input_tokens <= limit.added_to(text):
        raise ModelUnusable(
            f"max_input_tokens {limit.max_input_tokens} leaves no room beside {limit.added_to(text)} special tokens; "
            "set a greater value"
        )


def _encode(tokenizer: Tokenizer, texts: Sequence[Text], offsets: bool) -> list[Encoding | str]:
    """Encode all texts in one call; if that raises, one by one, so that only the text with the error fails."""
    try:
        if len(texts) == 1:  # encode_batch would wake threads
            return [tokenizer.encode(texts[0]) if isinstance(texts[0], str) else tokenizer.encode(*texts[0])]
        encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        return list(encode(list(texts)))
    except BaseException as error:  # panics inside the tokenizer derive from BaseException
        reraise_if_fatal(error)
        if len(texts) == 1:
            return [str(error)]
        return [outcome for text in texts for outcome in _encode(tokenizer, [text], offsets)]
