"""From request inputs to token ids: one call of the tokenizer for a whole row, and each bad input on its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from scheduler.core.errors import InputTooLong, InvalidInput, ModelUnusable
from scheduler.core.outcomes import Failed
from scheduler.tokens import TextLimit
from worker.engines.base import Prepared

#: What ``parameters`` may hold for models that read text.
ACCEPTED_PARAMETERS = ("truncate",)
#: Of a text that is to be cut, so many characters are read for each token that the model takes. English has 4 to 5;
#: only runs of space or words of hundreds of letters are cut shorter than the model would take them.
CHARACTERS_PER_TOKEN = 64


class TextPreparer:
    """Checks and tokenises texts for one model. Safe beside a forward pass: the tokenizer lets go of the GIL."""

    def __init__(self, limit: TextLimit, folder: Path) -> None:
        """``folder`` holds the model's tokenizer_config.json. Raises `ModelUnusable` where the limit leaves no room."""
        self._max_tokens = limit.max_input_tokens
        if self._max_tokens <= limit.added_tokens:
            raise ModelUnusable(
                f"max_input_tokens {self._max_tokens} leaves no room beside {limit.added_tokens} special tokens"
            )
        self._whole = limit.tokenizer
        # Truncation is a state of the tokenizer and rows mix both wishes, hence a second one; cutting inside the
        # tokenizer keeps the special tokens as transformers and sentence-transformers do.
        self._cutting = Tokenizer.from_str(limit.tokenizer.to_str())
        side = _truncation_side(folder)
        self._cuts_end = side == "right"
        self._cutting.enable_truncation(self._max_tokens, direction=side)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Tokenise; same length and order as ``inputs``. `Prepared.data` is (tokens,), int64.

        A text that is to be cut is read only as far as `CHARACTERS_PER_TOKEN` goes: megabytes would hold up everybody
        else's requests for seconds.
        """
        prepared: list[Prepared | Failed | None] = [
            _refusal(text, wishes) for text, wishes in zip(inputs, parameters, strict=True)
        ]
        for cut in (False, True):
            chosen = [
                index for index, done in enumerate(prepared)
                if done is None and parameters[index].get("truncate", False) is cut
            ]  # fmt: skip
            texts = [self._readable(inputs[index]) if cut else inputs[index] for index in chosen]
            encodings = _encode(self._cutting if cut else self._whole, texts)
            for index, encoding in zip(chosen, encodings, strict=True):
                prepared[index] = encoding if isinstance(encoding, Failed) else self._measured(encoding)
        return [item for item in prepared if item is not None]

    def _readable(self, text: str) -> str:
        limit = CHARACTERS_PER_TOKEN * self._max_tokens
        if len(text) <= limit:
            return text
        # At a space, so that the last word read is a word of the text.
        start = text[:limit] if self._cuts_end else text[-limit:]
        at = start.rfind(" ") if self._cuts_end else start.find(" ")
        return start if at < 0 else start[:at] if self._cuts_end else start[at:]

    def _measured(self, encoding: Encoding) -> Prepared | Failed:
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if not len(ids):
            return Failed(InvalidInput("the input has no tokens; this model takes a text of at least one"))
        if len(ids) > self._max_tokens:
            return Failed(
                InputTooLong(
                    f"the input has {len(ids)} tokens; the model takes {self._max_tokens}; "
                    "pass parameters.truncate=true to cut it to that"
                )
            )
        return Prepared(tokens=len(ids), data=ids)


def _refusal(text: Any, parameters: Mapping[str, Any]) -> Failed | None:
    """What is wrong before any tokenising; None where nothing is."""
    unknown = [name for name in parameters if name not in ACCEPTED_PARAMETERS]
    if unknown:
        return Failed(
            InvalidInput(
                f"unknown parameters {', '.join(map(repr, unknown))}; this model takes truncate (true or false)"
            )
        )
    if not isinstance(parameters.get("truncate", False), bool):
        return Failed(InvalidInput(f"parameters.truncate: takes true or false (got {parameters['truncate']!r})"))
    if not isinstance(text, str):
        return Failed(InvalidInput(f"input: takes a string (got {type(text).__name__})"))
    try:
        # JSON can spell half a surrogate pair; the tokenizer would raise for the whole row.
        text.encode()
    except UnicodeEncodeError:
        return Failed(InvalidInput("input: the string holds half a surrogate pair, which is no character"))
    return None


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding | Failed]:
    """One call for all; where that raises, one by one, so that the culprit fails alone."""
    try:
        # Threads are not worth waking for one; offsets, which the fast call leaves out, are of no use here.
        return [tokenizer.encode(texts[0])] if len(texts) == 1 else list(tokenizer.encode_batch_fast(texts))
    except BaseException as error:  # A panic inside the tokenizer derives from BaseException.
        _raise_if_meant_for_us(error)
        if len(texts) == 1:
            return [Failed(InvalidInput(f"input: the tokenizer cannot read it: {error}"))]
        return [outcome for text in texts for outcome in _encode(tokenizer, [text])]


def _raise_if_meant_for_us(error: BaseException) -> None:
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        raise error


def _truncation_side(folder: Path) -> str:
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("truncation_side", "right") if file.is_file() else "right"
