"""The task ``generate``: its prompts, its parameters, and the cost of a request.

Parameters have the names and meanings of OpenAI's and vLLM's interfaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from windrow.errors import TOO_LONG_ADVICE, InputTooLong, InvalidInput
from windrow.scheduler.json_schema.bounds import require_bounded
from windrow.scheduler.json_schema.grammar import require_enforced
from windrow.scheduler.tasks.base import Parameters, Task, Text, require_characters
from windrow.scheduler.tasks.validation import Strict, parse, whole

#: Default of ``max_tokens``, if the model's context has room for it.
DEFAULT_MAX_TOKENS = 256
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_MESSAGES = 1024
#: Estimated number of tokens that a chat template adds to a message.
TOKENS_PER_MESSAGE = 8


def _listed(stop: object) -> object:
    """Return a tuple of stop strings for a string, a list or None."""
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, (list, tuple)):
        raise ValueError("takes a string or a list of strings")
    return tuple(stop)  # strict pydantic does not accept a list as a tuple


def _counted(logprobs: object) -> object:
    """Return 0 for ``true``, which asks for the chosen token only, and None for ``false``."""
    if logprobs is False:
        return None
    return 0 if logprobs is True else logprobs


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
Stops = Annotated[
    tuple[Stop, ...],
    BeforeValidator(_listed),
    Field(max_length=MAX_STOPS),
    WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}, {"type": "null"}]}),
]
_COUNT = {"type": "integer", "minimum": 0, "maximum": MAX_LOGPROBS}
Logprobs = Annotated[
    Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None,
    BeforeValidator(_counted),
    WithJsonSchema({"anyOf": [_COUNT, {"type": "boolean"}, {"type": "null"}]}),
]


class GenerateParameters(Parameters):
    """The parameters of a generation, which is greedy by default."""

    max_tokens: int | None = Field(
        None,
        ge=1,
        le=1 << 20,
        description=f"Maximum new tokens; default {DEFAULT_MAX_TOKENS}, or the room left in the context.",
    )
    min_tokens: int = Field(
        0, ge=0, le=1 << 20, description="Minimum new tokens before an end token or a stop string counts."
    )
    ignore_eos: bool = Field(False, description="Ignore the model's end tokens: generate exactly max_tokens.")
    temperature: float = Field(0.0, ge=0, le=100, description="0 always takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the fewest tokens that reach this probability.")
    top_k: int = Field(0, ge=0, le=1 << 20, description="Sample from this many most likely tokens; 0 for all.")
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Divides positive and multiplies negative logits of tokens seen before."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from the logit of a token generated before."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from the logit of a token once for each time it was generated."
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63), BeforeValidator(whole)] | None = Field(
        None, description="The same seed and request give the same text."
    )
    stop: Stops = Field((), description=f"A string or up to {MAX_STOPS}: the text ends before the first of them.")
    logprobs: Logprobs = Field(
        None, description="Log probabilities of each token and of this many most likely tokens; true means 0."
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="Number of texts, each sampled separately.")
    json_schema: Annotated[dict[str, Any] | None, BeforeValidator(require_bounded)] = Field(
        None, alias="schema", description="A JSON schema that the text meets; see docs/generation.md."
    )
    truncate: bool = Field(False, description="Cut the start of a prompt that is too long, instead of a 422.")

    @model_validator(mode="after")
    def _can_be_met(self) -> GenerateParameters:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        return self

    @property
    def wanted_tokens(self) -> int:
        """Maximum new tokens of one choice, if the context has room for them."""
        return max(DEFAULT_MAX_TOKENS, self.min_tokens) if self.max_tokens is None else self.max_tokens

    @property
    def reserved_tokens(self) -> int:
        """New tokens of one choice for which the context must have room beside the whole prompt."""
        return max(1, self.min_tokens) if self.max_tokens is None else self.max_tokens


class Message(Strict):
    """One turn of a chat, for the model's chat template."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class Prompt(Strict):
    """The prompt of a generation; exactly one of its fields is set."""

    prompt: str | None = Field(None, description="A text.")
    prompt_ids: list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = Field(
        None, min_length=1, description="Token ids, used without change."
    )
    messages: list[Message] | None = Field(
        None, min_length=1, max_length=MAX_MESSAGES, description="A chat, for the model's chat template."
    )

    @model_validator(mode="after")
    def _one(self) -> Prompt:
        if sum(value is not None for value in (self.prompt, self.prompt_ids, self.messages)) != 1:
            raise ValueError("takes exactly one of prompt, prompt_ids, messages")
        return self

    @property
    def texts(self) -> list[str]:
        """The texts of the prompt."""
        return [self.prompt] if self.prompt is not None else [turn.content for turn in self.messages or ()]

    @property
    def read_texts(self) -> list[str]:
        """The part of `texts` that every chat template keeps: some strip texts, or drop earlier reasoning."""
        if self.messages is None:
            return self.texts
        return [
            (turn.content.rpartition("</think>")[2] if turn.role == "assistant" else turn.content).strip()
            for turn in self.messages
        ]


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """A validated request."""

    prompt: Prompt
    parameters: GenerateParameters


def read_call(value: object, parameters: Mapping[str, Any] | None, where: str = "input") -> GenerateCall:
    """Validate an input and its parameters. Raises `InvalidInput` with the wrong value and what is accepted.

    ``value`` is a text, or an object with one of ``prompt``, ``prompt_ids`` and ``messages``.
    """
    return GenerateCall(read_prompt(value, where), read_parameters(parameters))


def read_prompt(value: object, where: str = "input") -> Prompt:
    """Validate an input; see `read_call`."""
    if isinstance(value, Prompt):
        return value
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: takes a string, or an object with one of prompt, prompt_ids, messages")
    prompt = parse(Prompt, value, where=where)
    for at, text in enumerate(prompt.texts):
        require_characters(text, where if prompt.messages is None else f"{where}.messages.{at}.content")
    return prompt


def read_parameters(parameters: Mapping[str, Any] | None) -> GenerateParameters:
    """Validate parameters; see `read_call`."""
    return GENERATE.read_parameters(parameters)


def require_answer_fits(parameters: GenerateParameters, context_tokens: int) -> None:
    """Raise `InvalidInput` if the new tokens alone may fill the context, which has to hold the prompt too."""
    reserved = parameters.reserved_tokens
    if reserved >= context_tokens:
        name = "min_tokens" if parameters.max_tokens is None else "max_tokens"
        raise InvalidInput(
            f"parameters.{name}: {reserved} leaves no room for a prompt; the context has {context_tokens} tokens"
        )


def require_prompt_fits(
    prompt_tokens: int, parameters: GenerateParameters, context_tokens: int, where: str = "input"
) -> None:
    """Raise `InputTooLong` if a prompt of ``prompt_tokens`` leaves too little room for the requested new tokens."""
    reserved = parameters.reserved_tokens
    if prompt_tokens + reserved > context_tokens:
        raise InputTooLong(
            f"{where}: {prompt_tokens} tokens, and {reserved} may follow; the context has {context_tokens}; "
            f"{TOO_LONG_ADVICE}"
        )


def generate_output(
    choices: list[dict[str, Any]], prompt_tokens: int, completion_tokens: int, cached_tokens: int
) -> dict[str, Any]:
    """Return the output: the fields of the first of ``choices``, the usage, and all choices if there are several."""
    output = {name: value for name, value in choices[0].items() if name != "index"}
    output["usage"] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "cached_tokens": cached_tokens,
    }
    if len(choices) > 1:
        output["choices"] = choices
    return output


def _texts(value: object, parameters: GenerateParameters, where: str) -> list[Text]:
    return list(read_prompt(value, where).texts)


def _extra_tokens(value: object, parameters: GenerateParameters) -> int:
    """Return the tokens of the request beside its texts: ids, the chat template, and the maximum of new tokens."""
    prompt = read_prompt(value)
    given = len(prompt.prompt_ids or ()) + TOKENS_PER_MESSAGE * len(prompt.messages or ())
    return given + parameters.n * parameters.wanted_tokens


def _require_enforced(parameters: GenerateParameters) -> None:
    if parameters.json_schema is not None:
        require_enforced(parameters.json_schema)


GENERATE = Task(
    "generate", GenerateParameters, _texts, input=Prompt, check_parameters=_require_enforced,
    extra_tokens=_extra_tokens, streams=True, parse_input=read_prompt,
)  # fmt: skip
