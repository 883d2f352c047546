"""The task ``generate``: what a prompt may be, what may be asked of the sampling, and what a request is charged.

Names and meanings are those of OpenAI's and vLLM's interfaces.
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

#: New tokens where the request does not say, or what is left of the model's context.
DEFAULT_MAX_TOKENS = 256
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_MESSAGES = 1024
#: What a chat template puts round a message, in estimates.
TOKENS_PER_MESSAGE = 8


def _listed(stop: object) -> object:
    """One stop string is a list of one; None is none."""
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, (list, tuple)):
        raise ValueError("takes a string or a list of strings")
    return tuple(stop)  # strict pydantic takes no list for a tuple


def _counted(logprobs: object) -> object:
    """``true`` is the chosen token alone, ``false`` and null are nothing."""
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
    """How to go on from the prompt; greedy where nothing is said."""

    max_tokens: int | None = Field(
        None, ge=1, le=1 << 20, description=f"Most new tokens; {DEFAULT_MAX_TOKENS}, or what the context has left."
    )
    min_tokens: int = Field(0, ge=0, le=1 << 20, description="No end, by token or by stop string, before so many.")
    ignore_eos: bool = Field(False, description="Go on past the model's own end: exactly max_tokens come.")
    temperature: float = Field(0.0, ge=0, le=100, description="0 takes the likeliest token each time.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the fewest tokens with so much probability.")
    top_k: int = Field(0, ge=0, le=1 << 20, description="Sample from so many of the likeliest tokens; 0 is all.")
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Divides (or multiplies, where negative) the logits of tokens seen before."
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Taken off the logit of a token generated before.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="The same, times how often it was generated.")
    seed: Annotated[int, Field(ge=0, lt=1 << 63), BeforeValidator(whole)] | None = Field(
        None, description="The same seed and request: the same answer."
    )
    stop: Stops = Field(
        (), description=f"A string or up to {MAX_STOPS}: generation ends before any of them, and the text lacks it."
    )
    logprobs: Logprobs = Field(
        None, description="Log probabilities of each token and of so many of the likeliest; true is 0."
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="How many answers, each sampled by itself.")
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
        """The most new tokens of one choice, where the context has room for them."""
        return max(DEFAULT_MAX_TOKENS, self.min_tokens) if self.max_tokens is None else self.max_tokens

    @property
    def reserved_tokens(self) -> int:
        """New tokens of one choice that the context must have room for beside the whole prompt."""
        return max(1, self.min_tokens) if self.max_tokens is None else self.max_tokens


class Message(Strict):
    """One turn of a chat, for the model's chat template."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class Prompt(Strict):
    """What to go on from; exactly one of its fields is set."""

    prompt: str | None = Field(None, description="A text.")
    prompt_ids: list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = Field(
        None, min_length=1, description="Token ids, taken as they are."
    )
    messages: list[Message] | None = Field(
        None, min_length=1, max_length=MAX_MESSAGES, description="A chat, put through the model's chat template."
    )

    @model_validator(mode="after")
    def _one(self) -> Prompt:
        if sum(value is not None for value in (self.prompt, self.prompt_ids, self.messages)) != 1:
            raise ValueError("takes exactly one of prompt, prompt_ids, messages")
        return self

    @property
    def texts(self) -> list[str]:
        """What of it is text."""
        return [self.prompt] if self.prompt is not None else [turn.content for turn in self.messages or ()]

    @property
    def read_texts(self) -> list[str]:
        """What of `texts` any chat template leaves in: some strip it, or drop an earlier answer's reasoning."""
        if self.messages is None:
            return self.texts
        return [
            (turn.content.rpartition("</think>")[2] if turn.role == "assistant" else turn.content).strip()
            for turn in self.messages
        ]


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One checked request."""

    prompt: Prompt
    parameters: GenerateParameters


def read_call(value: object, parameters: Mapping[str, Any] | None, where: str = "input") -> GenerateCall:
    """Check an input and its parameters; raise `InvalidInput` naming what is wrong and what is accepted.

    ``value`` is a text, or an object with one of ``prompt``, ``prompt_ids`` and ``messages``.
    """
    return GenerateCall(read_prompt(value, where), read_parameters(parameters))


def read_prompt(value: object, where: str = "input") -> Prompt:
    """Check an input alone; see `read_call`."""
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
    """Check parameters alone; see `read_call`."""
    return GENERATE.read_parameters(parameters)


def require_answer_fits(parameters: GenerateParameters, context_tokens: int) -> None:
    """Raise `InvalidInput` where the answer alone may fill the context, which prompt and answer share."""
    asked = parameters.reserved_tokens
    if asked >= context_tokens:
        name = "min_tokens" if parameters.max_tokens is None else "max_tokens"
        raise InvalidInput(
            f"parameters.{name}: {asked} leaves no room for a prompt; the context has {context_tokens} tokens"
        )


def require_prompt_fits(
    prompt_tokens: int, parameters: GenerateParameters, context_tokens: int, where: str = "input"
) -> None:
    """Raise `InputTooLong` where a prompt of so many tokens leaves too little room for what is asked for."""
    asked = parameters.reserved_tokens
    if prompt_tokens + asked > context_tokens:
        raise InputTooLong(
            f"{where}: {prompt_tokens} tokens, and {asked} may follow; the context has {context_tokens}; "
            f"{TOO_LONG_ADVICE}"
        )


def _texts(value: object, parameters: GenerateParameters, where: str) -> list[Text]:
    return list(read_prompt(value, where).texts)


def _extra_tokens(value: object, parameters: GenerateParameters) -> int:
    """Ids, what a template puts round messages, and every token that may come."""
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
