"""Schemas of OpenAI's request bodies, and their conversion to inputs and parameters of a task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from windrow.scheduler.core.fairness import Priority
from windrow.scheduler.tasks.embed import EmbedParameters
from windrow.scheduler.tasks.generate import MAX_LOGPROBS, GenerateParameters, Message
from windrow.scheduler.tasks.validation import Strict

#: OpenAI's default of max_tokens for completions.
COMPLETION_TOKENS = 16
TEXT = {"type": "string"}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def _one_or_more(*kinds: dict[str, Any]) -> WithJsonSchema:
    lists = [{"type": "array", "items": kind, "minItems": 1} for kind in kinds]
    return WithJsonSchema({"anyOf": [*kinds, *lists]})


def _texts(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts:
        if all(isinstance(text, str) for text in texts):
            return texts
        if all(_is_token_ids(text) or isinstance(text, int) for text in texts):
            raise ValueError(
                "does not take token ids, because every model has its own tokenizer; send the text "
                "(with langchain: check_embedding_ctx_length=False)"
            )
    raise ValueError("takes a string or an array of at least one string")


def _prompts(value: object) -> object:
    prompts = [value] if isinstance(value, str) or _is_token_ids(value) else value
    if isinstance(prompts, list) and prompts:
        if all(isinstance(prompt, str) for prompt in prompts):
            return [{"prompt": prompt} for prompt in prompts]
        if all(_is_token_ids(prompt) for prompt in prompts):
            return [{"prompt_ids": prompt} for prompt in prompts]
    raise ValueError("takes a string, an array of token ids, or an array of at least one of either")


def _is_token_ids(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(type(id) is int for id in value)


class EmbeddingsRequest(EmbedParameters):
    """Texts to embed; each becomes a request of its own."""

    model: str = Field(description="Name of a model of task embed.", examples=["minilm"])
    input: Annotated[Any, BeforeValidator(_texts), _one_or_more(TEXT)] = Field(
        description="A text, or a list of up to max_batch_inputs (a server setting) texts."
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    priority: Priority = Field("normal", description="Share of the device that the call gets.")

    def inputs(self) -> list[str]:
        """Return the inputs of the task embed."""
        return list(self.input)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the task embed that differ from its defaults."""
        return _differing(self, EmbedParameters)


def _differing(body: BaseModel, kind: type[BaseModel]) -> dict[str, Any]:
    sent = {}
    for name, field in kind.model_fields.items():
        value = getattr(body, name)
        if value != field.default:
            sent[field.alias or name] = list(value) if isinstance(value, tuple) else value
    return sent


class StreamOptions(Strict):
    """Options of the stream."""

    include_usage: bool = Field(False, description="Send the usage of the whole call in a last chunk.")
    include_obfuscation: Literal[False] = Field(False, description="Not supported: chunks have no padding.")


class _Generation(GenerateParameters):
    """The fields of both routes; the sampling parameters have the names of the task generate."""

    model: str = Field(description="Name of a model of task generate or upstream.", examples=["tiny-llama"])
    temperature: float = Field(1.0, ge=0, le=100, description="0 always takes the most likely token.")
    stream: bool = Field(False, description="Send the text as server-sent events while it is generated.")
    stream_options: StreamOptions | None = None
    priority: Priority = Field("normal", description="Share of the device that the call gets.")

    @model_validator(mode="after")
    def _has_a_stream(self) -> _Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: requires stream: true")
        return self

    @property
    def includes_usage(self) -> bool:
        """Whether the stream ends with a chunk of the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the task generate that differ from its defaults, as JSON types."""
        return _differing(self, GenerateParameters)


class CompletionRequest(_Generation):
    """Prompts to complete; each becomes a request of its own."""

    prompt: Annotated[Any, BeforeValidator(_prompts), _one_or_more(TEXT, IDS)] = Field(
        description="A text or a list of token ids, or a list of up to max_batch_inputs (a server setting) of either."
    )
    max_tokens: int | None = Field(COMPLETION_TOKENS, ge=1, le=1 << 20, description="Maximum number of new tokens.")

    def inputs(self) -> list[dict[str, Any]]:
        """Return the inputs of the task generate."""
        return list(self.prompt)


def _text_of(content: object) -> object:
    """Join the text parts of a message's content; other kinds of parts are refused."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("takes a string or parts of type text; other types are not supported")
        texts.append(part["text"])
    return "".join(texts)


def _without_nulls(message: object) -> object:
    # Clients send an answer's message back with all its null fields.
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None}


class ChatMessage(Message):
    """One message of the chat."""

    content: Annotated[str, BeforeValidator(_text_of)]
    name: str | None = Field(None, exclude=True, description="Ignored: chat templates have no names.")


class JsonSchema(Strict):
    """The JSON schema of the answer."""

    name: str = ""
    description: str = ""
    json_schema: dict[str, Any] = Field({}, alias="schema")
    strict: bool = True


class ResponseFormat(Strict):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _fits(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is required with type json_schema, and only with it")
        return self

    def as_schema(self) -> dict[str, Any] | None:
        """Return the format as a JSON schema; None for any text."""
        if self.json_schema is not None:
            return self.json_schema.json_schema
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(_Generation):
    """A chat to answer."""

    messages: list[Annotated[ChatMessage, BeforeValidator(_without_nulls)]] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 20, description="The newer name of max_tokens.")
    logprobs: bool = Field(False, description="Return the log probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Return this many of the most likely tokens at each position too."
    )
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: requires logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_completion_tokens: differs from max_tokens; send only one of them")
        return self

    def inputs(self) -> list[dict[str, Any]]:
        """Return the single input of the task generate."""
        return [{"messages": [message.model_dump() for message in self.messages]}]

    def renamed(self) -> dict[str, str]:
        """Return parameter of the task generate -> the request's field, for those with different names."""
        sent = {"max_tokens": "max_completion_tokens", "schema": "response_format"}
        return {name: field for name, field in sent.items() if getattr(self, field) is not None}

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the task generate that differ from its defaults, as JSON types."""
        sent = super().parameters()
        sent.pop("logprobs", None)
        if self.logprobs:
            sent["logprobs"] = self.top_logprobs or 0
        if self.max_completion_tokens is not None:
            sent["max_tokens"] = self.max_completion_tokens
        schema = self.response_format.as_schema() if self.response_format else None
        return sent if schema is None else sent | {"schema": schema}
