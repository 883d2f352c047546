"""Translates a request of task ``generate`` to a call of an OpenAI-compatible server, and its chunks to an output."""

from __future__ import annotations

from dataclasses import dataclass, field

from windrow.scheduler.core.fairness import estimate_cost_tokens
from windrow.scheduler.tasks import generate
from windrow.worker.engines.upstream.chunks import ChunkChoice, Json, Usage, read_choices, read_usage

#: Parameters that are sent under the same name unless they have their default. The last four are vLLM's, and llama.cpp
#: supports some of them; other servers refuse or ignore them.
PASSED_ON = (
    "max_tokens", "top_p", "presence_penalty", "frequency_penalty", "seed", "n",
    "min_tokens", "ignore_eos", "top_k", "repetition_penalty",
)  # fmt: skip
#: Servers that can report usage with every chunk, by ``owned_by`` in their lists of models. Others may refuse a call
#: that asks for it.
REPORT_USAGE = ("vllm", "sglang")


def path_of(call: generate.GenerateCall) -> str:
    """Return the route of a request: one for chats, one for prompts."""
    return "/completions" if call.prompt.messages is None else "/chat/completions"


def can_report_usage(models: object) -> bool:
    """Return whether the server with this list of models can report usage with every chunk."""
    entries = models.get("data") if isinstance(models, dict) else None
    return isinstance(entries, list) and any(
        isinstance(model, dict) and model.get("owned_by") in REPORT_USAGE for model in entries
    )


def body_of(call: generate.GenerateCall, model: str, *, reports_usage: bool = False) -> Json:
    """Return the body of a streamed call. ``reports_usage``: the server can report usage with every chunk."""
    parameters, prompt = call.parameters, call.prompt
    options = {"include_usage": True}
    if reports_usage and parameters.n == 1:  # usage does not say which choice the tokens belong to
        options["continuous_usage_stats"] = True
    body: Json = {"model": model, "stream": True, "stream_options": options}
    body["temperature"] = parameters.temperature
    if prompt.messages is not None:
        body["messages"] = [message.model_dump() for message in prompt.messages]
    else:
        body["prompt"] = prompt.prompt if prompt.prompt_ids is None else prompt.prompt_ids
    for name in PASSED_ON:
        value = getattr(parameters, name)
        if value != generate.GenerateParameters.model_fields[name].default:
            body[name] = value
    # Always sent, because completions stop at 16 tokens by default.
    body.setdefault("max_tokens", parameters.wanted_tokens)
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if parameters.logprobs is not None:
        count = {"logprobs": parameters.logprobs}
        body |= count if prompt.messages is None else {"logprobs": True, "top_logprobs": parameters.logprobs}
    if parameters.json_schema is not None:
        schema = {"name": "answer", "schema": parameters.json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def estimate_tokens(prompt: generate.Prompt) -> int:
    """Return an estimate of a prompt's tokens; only the server has the tokenizer."""
    ids, turns = len(prompt.prompt_ids or ()), len(prompt.messages or ())
    return ids + generate.TOKENS_PER_MESSAGE * turns + sum(estimate_cost_tokens(len(text)) for text in prompt.texts)


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """The new output of one choice."""

    index: int
    text: str
    #: Number of new tokens known so far.
    tokens: int
    logprobs: list[Json]


@dataclass(slots=True)
class _ChoiceText:
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    finish_reason: str | None = None
    #: Number of tokens in its deltas.
    reported_tokens: int = 0

    @property
    def known_tokens(self) -> int:
        """The number of known tokens, or one per chunk if that is more."""
        return max(self.reported_tokens, len(self.texts))


@dataclass(slots=True)
class UpstreamAnswer:
    """The part of an answer that has arrived."""

    call: generate.GenerateCall
    choices: list[_ChoiceText] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self.choices = [_ChoiceText() for _ in range(self.call.parameters.n)]

    @property
    def is_whole(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def take(self, chunk: Json) -> list[OutputDelta]:
        """Add a chunk and return its new output. Raises `ValueError` for an invalid chunk."""
        usage = read_usage(chunk)
        self.usage = usage or self.usage
        so_far = usage.completion if usage is not None and len(self.choices) == 1 else None
        has_logprobs = self.call.parameters.logprobs is not None
        parts = read_choices(chunk, len(self.choices), with_logprobs=has_logprobs)
        return [delta for part in parts if (delta := self._take(part, so_far)) is not None]

    def _take(self, part: ChunkChoice, so_far: int | None) -> OutputDelta | None:
        choice = self.choices[part.index]
        choice.finish_reason = part.finish_reason or choice.finish_reason
        if not part.text and not part.logprobs:
            return None
        # A chunk may contain many tokens. Without usage, only the first chunk is known to contain one.
        known = len(part.logprobs) if so_far is None else so_far - choice.reported_tokens
        tokens = max(known, 0 if choice.reported_tokens else 1)
        choice.reported_tokens += tokens
        choice.texts.append(part.text)
        choice.logprobs += part.logprobs
        return OutputDelta(part.index, part.text, tokens, part.logprobs)

    def unreported_tokens(self) -> list[int]:
        """Return the number of tokens without a delta by choice, divided by the number of chunks of each choice."""
        rest = max(0, self._completion_tokens - sum(choice.reported_tokens for choice in self.choices))
        chunks = [len(choice.texts) for choice in self.choices]
        shares = [rest * count // max(1, sum(chunks)) for count in chunks]
        return [shares[0] + rest - sum(shares), *shares[1:]]

    def output(self) -> Json:
        """Return the output of task ``generate``."""
        choices = []
        for index, choice in enumerate(self.choices):
            entry: Json = {"index": index, "text": "".join(choice.texts)}
            entry["finish_reason"] = choice.finish_reason or "stop"
            if self.call.parameters.logprobs is not None:
                entry["logprobs"] = choice.logprobs
            choices.append(entry)
        reported = self.usage.prompt
        prompt_tokens = estimate_tokens(self.call.prompt) if reported is None else reported
        return generate.generate_output(choices, prompt_tokens, self._completion_tokens, self.usage.cached or 0)

    @property
    def _completion_tokens(self) -> int:
        reported = self.usage.completion
        return sum(choice.known_tokens for choice in self.choices) if reported is None else reported
