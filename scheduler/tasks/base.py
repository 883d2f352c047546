"""What a task is to the API and to the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from windrow.errors import InputTooLong, InvalidInput
from windrow.scheduler.core.fairness import estimate_cost_tokens
from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.tasks.validation import Strict, parse

#: What the model reads as one sequence of tokens: a text, or a pair of them.
Text = str | tuple[str, str]

#: One request of several sequences is computed in so many passes at most: nobody else's run between them.
MAX_REQUEST_PASSES = 16


class Parameters(Strict):
    """How the model is to treat the input."""

    truncate: bool = Field(False, description="Cut an input that is longer than the model takes, instead of a 422.")

    def sent(self) -> dict[str, Any]:
        """The parameters that differ from what they are by themselves, as JSON types."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


P = TypeVar("P", bound=Parameters)


def name_itself(where: str, index: int) -> str:
    """The name of an input that is one text."""
    return where


@dataclass(frozen=True, slots=True)
class Task(Generic[P]):
    """One task: everything that can be said of a request before its model is loaded."""

    #: As in windrow.toml.
    name: str
    parameters: type[P]
    #: (input, parameters, its name in errors) -> the sequences that are computed for it, at least one.
    #: Raises `InvalidInput`.
    texts: Callable[[object, P, str], list[Text]]
    #: The model of an input that is an object; None where it is a string.
    input: type[BaseModel] | None = None
    #: Whether its texts are pairs, mostly several a request.
    reads_pairs: bool = False
    #: Which text of a pair is cut where the pair is too long.
    cut: Literal["longest_first", "only_first"] = "longest_first"
    #: (name of the input, position in ``texts``) -> what that text is called in errors.
    name_of: Callable[[str, int], str] = name_itself
    #: (parameters, folder of the model's files) -> None. Raises `InvalidInput` where the model cannot do as they say.
    check_model: Callable[[P, Path], None] | None = None
    #: (parameters) -> None. Raises `InvalidInput` for what each of them may say, and this task cannot do.
    check_parameters: Callable[[P], None] | None = None
    #: (input, parameters) -> tokens charged beside those of ``texts``; None for none.
    more_tokens: Callable[[object, P], int] | None = None
    #: Whether there is a tokenizer here that counts what it costs; else that is estimated, and no length is refused.
    counts: bool = True
    #: Whether the model's own prompt goes in front of its texts.
    takes_prompt: bool = False
    #: Whether its output comes piece by piece, so that it can be followed.
    streams: bool = False

    def read_parameters(self, value: Mapping[str, Any] | None) -> P:
        """Check ``value``, an object or nothing; raises `InvalidInput` naming what was wrong and what is accepted."""
        parameters = parse(self.parameters, value or {}, where="parameters", what="parameter")
        if self.check_parameters is not None:
            self.check_parameters(parameters)
        return parameters

    def with_prompt(self, texts: list[Text], prompt: str) -> list[Text]:
        """``texts`` as the model reads them; a pair never gets a prompt."""
        if not prompt or not self.takes_prompt:
            return texts
        return [prompt + text if isinstance(text, str) else text for text in texts]

    def count_more(self, value: object, parameters: P) -> int:
        """What a checked request is charged for beside its texts, in tokens."""
        return 0 if self.more_tokens is None else self.more_tokens(value, parameters)

    def estimate_tokens(self, texts: Sequence[Text], longest: int) -> int:
        """What ``texts`` are charged for, in tokens, uncounted; the model reads at most ``longest`` of each."""
        return sum(min(longest, estimate_cost_tokens(characters(text))) for text in texts)


def characters(text: Text) -> int:
    """Characters of a text or of both texts of a pair."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def require_few_passes(sequences: int, tokens: int, max_batch_tokens: int, where: str) -> None:
    """Raise `InputTooLong` where several sequences are more work than one request may be.

    ``tokens`` are those of all of them together, and ``max_batch_tokens`` those that a pass holds.
    """
    most = MAX_REQUEST_PASSES * max_batch_tokens
    if sequences > 1 and tokens > most:
        raise InputTooLong(
            f"{where}: its {sequences} pairs of texts are {tokens} tokens, and one request takes {most}, "
            f"{MAX_REQUEST_PASSES} times max_batch_tokens; send it in several"
        )


def require_string(task: str, value: object, where: str) -> str:
    """Return ``value``, the whole input of a request; raise `InvalidInput` where it is no string that can be read."""
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: a model of task {task} takes a string, not {json_type(value)}")
    return require_characters(value, where)


def require_characters(text: str, where: str) -> str:
    """Return ``text``; raise `InvalidInput` for half a surrogate pair, which JSON can spell and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{where}: the string holds half a surrogate pair, which is no character") from None
    return text
