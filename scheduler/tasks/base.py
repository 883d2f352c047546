"""The `Task` record: what a task accepts, costs and returns, as far as this is known without loading a model.

To add a task:

1. Write ``scheduler/tasks/<task>.py`` with a subclass of `Parameters`, a function that turns an input into the texts
   that the model reads, and a `Task` built from both. ``classify.py`` is the smallest example, ``rerank.py`` one with
   an input that is an object.
2. Add the task to ``TASKS`` in ``scheduler/tasks/__init__.py``.
3. Write its engine and add it to ``ENGINES`` in ``worker/engines/loading.py``.

The API calls these functions in a greenlet that serves other clients too, so they must be quick, do no I/O, and do
bounded work for a body of any content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from windrow.errors import InputTooLong, InvalidInput
from windrow.scheduler.core.fairness import estimate_cost_tokens
from windrow.scheduler.core.json_types import json_type
from windrow.scheduler.tasks.validation import Strict, parse

#: What a model reads as one sequence of tokens: a text, or a pair of texts.
Text = str | tuple[str, str]

#: Upper limit of the tokens of one request with several sequences, in multiples of max_batch_tokens. Its batches run
#: one after the other, so a larger request would delay every other request of the model.
MAX_REQUEST_BATCHES = 16


class Parameters(Strict):
    """Parameters of a request that every task has; a task adds its own in a subclass."""

    truncate: bool = Field(False, description="Cut an input that is longer than the model takes, instead of a 422.")

    def sent(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults, as JSON types."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Task(Generic[P]):
    """One task: validates, prices and splits a request into texts before its model is loaded.

    The cost of a request, in tokens, is the number of tokens of its ``texts`` plus ``extra_tokens``. Fair queueing,
    quotas and batches use this cost.
    """

    #: The value of ``task`` in windrow.toml.
    name: str
    parameters: type[P]
    #: (input, name of the input in errors) -> the parsed input, which ``texts`` and ``extra_tokens`` take as well as
    #: the input itself, so that an input of several fields is parsed once. Raises `InvalidInput`.
    parse_input: Callable[[object, str], object] = field(default=lambda value, where: value, kw_only=True)
    #: (input, parameters, name of the input in errors) -> the texts that the model reads, at least one.
    #: Raises `InvalidInput`.
    texts: Callable[[object, P, str], list[Text]]
    #: The schema of an input that is an object; None if the input is a string.
    input: type[BaseModel] | None = None
    #: Whether the texts are pairs; a request then has one or more of them.
    reads_pairs: bool = False
    #: Which texts of a pair ``truncate`` shortens, as in the ``tokenizers`` package.
    truncation: Literal["longest_first", "only_first"] = "longest_first"
    #: (name of the input, index in ``texts``) -> the name of that text in errors.
    text_name: Callable[[str, int], str] = lambda where, index: where
    #: (parameters, folder of the model's files) -> None. Raises `InvalidInput` if this model cannot fulfil them.
    check_model: Callable[[P, Path], None] | None = None
    #: (parameters) -> None. Raises `InvalidInput` for values that are valid one by one but that the task cannot fulfil.
    check_parameters: Callable[[P], None] = lambda parameters: None
    #: (input, parameters) -> the cost in tokens beside that of ``texts``, for example of the tokens to generate.
    extra_tokens: Callable[[object, P], int] = lambda value, parameters: 0
    #: Whether the model's files have a tokenizer. Without one the cost is estimated and no length is refused.
    has_tokenizer: bool = True
    #: Whether the default prompt in the model's files is put in front of the texts.
    takes_prompt: bool = False
    #: Whether the output is streamed, so that clients can follow it.
    streams: bool = False

    def read_parameters(self, value: Mapping[str, Any] | None) -> P:
        """Validate ``value``, an object or None; raise `InvalidInput` with the wrong field and what it accepts."""
        parameters = parse(self.parameters, value or {}, where="parameters", what="parameter")
        self.check_parameters(parameters)
        return parameters

    def with_prompt(self, texts: list[Text], prompt: str) -> list[Text]:
        """Return ``texts`` with ``prompt`` in front of each, if the task takes one; pairs are returned unchanged."""
        if not prompt or not self.takes_prompt:
            return texts
        return [prompt + text if isinstance(text, str) else text for text in texts]

    def estimate_tokens(self, texts: Sequence[Text], max_tokens: int) -> int:
        """Return the estimated tokens of ``texts``, from their characters; the model reads ``max_tokens`` of each."""
        return sum(min(max_tokens, estimate_cost_tokens(characters(text))) for text in texts)


def characters(text: Text) -> int:
    """Return the number of characters of a text or of both texts of a pair."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def require_request_size(sequences: int, tokens: int, max_batch_tokens: int, where: str) -> None:
    """Raise `InputTooLong` if a request of several sequences has more than `MAX_REQUEST_BATCHES` batches of tokens.

    ``tokens`` is the sum over its sequences, ``where`` the name of the input in errors.
    """
    limit = MAX_REQUEST_BATCHES * max_batch_tokens
    if sequences > 1 and tokens > limit:
        raise InputTooLong(
            f"{where}: its {sequences} pairs of texts are {tokens} tokens, and one request takes {limit}, "
            f"{MAX_REQUEST_BATCHES} times max_batch_tokens; split it into several requests"
        )


def require_string(task: str, value: object, where: str) -> str:
    """Return ``value``, the whole input of a request; raise `InvalidInput` unless it is a string of valid Unicode."""
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: a model of task {task} takes a string, not {json_type(value)}")
    return require_characters(value, where)


def string_texts(task: str) -> Callable[[object, Any, str], list[Text]]:
    """Return `Task.texts` of a ``task`` whose input is one string."""
    return lambda value, parameters, where: [require_string(task, value, where)]


def require_characters(text: str, where: str) -> str:
    """Return ``text``; raise `InvalidInput` for half a surrogate pair, which JSON can spell and tokenizers reject."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{where}: the string holds half a surrogate pair, which is not a character") from None
    return text
