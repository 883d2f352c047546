"""From request inputs to token ids: one call of the tokenizer for a whole row, and each bad input on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from windrow.worker.engines.text.sequences import Ids, Tokens

#: Of a text that is to be cut, so many characters are read for each token that the model takes. English has 4 to 5;
#: only runs of space or words of hundreds of letters are cut shorter than the model would take them.
CHARACTERS_PER_TOKEN = 64
#: So far back from there a space is looked for; where text has none, as Chinese or compact JSON, any place will do.
CHARACTERS_PER_WORD = 256
#: What the tokenizer says of a token takes a hundred bytes, so no more texts are in its hands at once.
TEXTS_PER_CALL = 1024
#: How the tokenizer says that the one text of a pair that may be cut is not long enough for it.
NO_ROOM = "Truncation error"
#: Different parameters that are remembered.
KNOWN_PARAMETERS = 256


class TextRequest(NamedTuple):
    """One request, read and tokenised: `Prepared.data` of the engines that read text."""

    #: Of the task's own kind.
    parameters: Any
    texts: Sequence[Text]
    #: As many as there are texts.
    sequences: Sequence[Tokens]
    #: What the tokenizer said of each (`tokenizers.Encoding`), with offsets; empty where nobody wants it.
    encodings: Sequence[Any] = ()
    #: Characters of the text in front of what the tokenizer read, which the offsets do not count.
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """What an engine wants to know of its texts, beside the ids."""

    #: Which text of a pair a token is of.
    types: bool = False
    #: Where in the text each token is.
    offsets: bool = False


class TextPreparer:
    """Checks and tokenises texts for one model. Safe beside a forward pass: the tokenizer lets go of the GIL."""

    def __init__(self, task: Task[Any], limit: TextLimit, folder: Path, reading: TokenizedText) -> None:
        """``folder`` holds the model's tokenizer_config.json."""
        self._task = task
        self._reading = reading
        self._limit = limit
        self._max_tokens = limit.max_input_tokens
        self._whole = limit.tokenizer
        # Truncation is a state of the tokenizer and rows mix both wishes, hence a second one; cutting inside the
        # tokenizer keeps the special tokens as transformers and sentence-transformers do.
        self._cutting = Tokenizer.from_str(limit.tokenizer.to_str())
        side = _truncation_side(folder)
        self._cuts_end = side == "right"
        self._known: dict[bytes, Any] = {}
        # It knows the ids alone, of single texts.
        self._wordpiece = None if task.reads_pairs or reading.offsets else limit.wordpiece
        self._cutting.enable_truncation(self._max_tokens, strategy=task.truncation, direction=side)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check and tokenise; same length and order as ``inputs``. `Prepared.data` is a `TextRequest`.

        A text that is to be cut is read only as far as `CHARACTERS_PER_TOKEN` goes: megabytes would hold up everybody
        else's requests for seconds.
        """
        read = [self._read(value, wishes) for value, wishes in zip(inputs, parameters, strict=True)]
        prepared: list[Prepared | Failed | None] = [one if isinstance(one, Failed) else None for one in read]
        for cut in (False, True):
            chosen = [
                (index, *one) for index, one in enumerate(read)
                if not isinstance(one, Failed) and one[1].truncate is cut
            ]  # fmt: skip
            texts = [text for _, of_request, _ in chosen for text in of_request]
            encodings = self._encode(texts, cut)
            for index, of_request, wishes in chosen:
                prepared[index] = self._measured(of_request, wishes, list(islice(encodings, len(of_request))))
        return [item for item in prepared if item is not None]

    def _read(self, value: Any, parameters: Mapping[str, Any]) -> tuple[list[Text], Any] | Failed:
        """The texts and the parameters of one request, before any tokenising."""
        try:
            wishes = self._read_parameters(parameters)
            texts = self._task.with_prompt(self._task.texts(value, wishes, "input"), self._limit.prompt)
            if not wishes.truncate:
                for at, text in enumerate(texts):
                    self._limit.require_countable(text, self._task.text_name("input", at))
            return texts, wishes
        except InvalidInput as error:
            return Failed(error)

    def _read_parameters(self, parameters: Mapping[str, Any]) -> Any:
        """Checked once for all that are written alike, as most requests of a model are."""
        try:
            written = orjson.dumps(parameters)
        except TypeError:  # half a surrogate pair
            return self._task.read_parameters(parameters)
        wishes = self._known.get(written)
        if wishes is None:
            wishes = self._task.read_parameters(parameters)
            if len(self._known) >= KNOWN_PARAMETERS:
                self._known.clear()
            self._known[written] = wishes
        return wishes

    def _measured(
        self, texts: list[Text], parameters: Any, encodings: Sequence[Encoding | Ids | str]
    ) -> Prepared | Failed:
        sequences = []
        for at, encoding in enumerate(encodings):
            if isinstance(encoding, str) or not 0 < len(encoding) <= self._max_tokens:
                return Failed(self._fault(self._task.text_name("input", at), encoding))
            if isinstance(encoding, Encoding):
                types = np.asarray(encoding.type_ids, dtype=np.int64) if self._reading.types else None
                sequences.append(Tokens(np.asarray(encoding.ids, dtype=np.int64), types))
            else:
                sequences.append(Tokens(encoding))
        request = TextRequest(parameters, texts, sequences)
        if self._reading.offsets:
            skipped = self._skipped(texts[0]) if parameters.truncate else 0
            request = request._replace(encodings=encodings, skipped=skipped)
        if len(sequences) == 1:
            return Prepared(len(sequences[0]), request)
        lengths = tuple(map(len, sequences))
        return Prepared(sum(lengths), request, lengths)

    def _fault(self, name: str, encoding: Encoding | Ids | str) -> InvalidInput:
        """Why the model does not take the text of that name."""
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

    def _encode(self, texts: Sequence[Text], cut: bool) -> Iterator[Encoding | Ids | str]:
        """What the tokenizer says of each text, or why it cannot read it; in few calls."""
        for start in range(0, len(texts), TEXTS_PER_CALL):
            some = texts[start : start + TEXTS_PER_CALL]
            readable = [self._readable(one) for one in some] if cut else some
            ids = self._ids_alone(readable, cut)
            yield from ids or _encode_alike(self._cutting if cut else self._whole, readable, self._reading)

    def _ids_alone(self, texts: Sequence[Text], cut: bool) -> list[Ids] | None:
        """Just the ids, where they are all that is wanted; None where the tokenizer itself has to be asked."""
        if self._wordpiece is None:
            return None
        limit = self._max_tokens if cut else None
        try:
            return self._wordpiece.encode(cast(Sequence[str], texts), limit, cuts_end=self._cuts_end)
        except ValueError:  # of one of them, and it says which
            return None

    def _readable(self, text: Text) -> Text:
        if isinstance(text, str):
            return cut_roughly(text, self._max_tokens, keeps_start=self._cuts_end)
        first, second = (cut_roughly(one, self._max_tokens, keeps_start=self._cuts_end) for one in text)
        return first, second

    def _skipped(self, text: Text) -> int:
        return 0 if self._cuts_end else characters(text) - characters(self._readable(text))


def cut_roughly(text: str, max_tokens: int, *, keeps_start: bool) -> str:
    """What is read of a text that is to be cut to ``max_tokens``: megabytes would hold up everybody else's requests."""
    limit = CHARACTERS_PER_TOKEN * max_tokens
    if len(text) <= limit:
        return text
    # At a space, so that the last word read is a word of the text, but not far from here: what is cut off must be
    # more than the model would take.
    near = min(CHARACTERS_PER_WORD, limit // 2)
    kept = text[:limit] if keeps_start else text[-limit:]
    places = range(limit - 1, limit - near, -1) if keeps_start else range(near)
    at = next((place for place in places if kept[place].isspace()), None)
    return kept if at is None else kept[:at] if keeps_start else kept[at:]


def require_room(limit: TextLimit, text: Text) -> None:
    """Raise `ModelUnusable` where the limit leaves no room beside the special tokens of an input like ``text``."""
    if limit.max_input_tokens <= limit.added_to(text):
        raise ModelUnusable(
            f"max_input_tokens {limit.max_input_tokens} leaves no room beside {limit.added_to(text)} special tokens"
        )


def _encode_alike(tokenizer: Tokenizer, texts: Sequence[Text], reading: TokenizedText) -> list[Encoding | str]:
    """One call for all; where that raises, one by one, so that the culprit fails alone."""
    try:
        if len(texts) == 1:  # threads are not worth waking for one
            return [tokenizer.encode(texts[0]) if isinstance(texts[0], str) else tokenizer.encode(*texts[0])]
        encode = tokenizer.encode_batch if reading.offsets else tokenizer.encode_batch_fast
        return list(encode(list(texts)))
    except BaseException as error:  # A panic inside the tokenizer derives from BaseException.
        reraise_if_fatal(error)
        if len(texts) == 1:
            return [str(error)]
        return [outcome for text in texts for outcome in _encode_alike(tokenizer, [text], reading)]


def _truncation_side(folder: Path) -> str:
    return str(read_object(folder / "tokenizer_config.json").get("truncation_side", "right"))
