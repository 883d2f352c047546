"""From a request of the task generate to the call of an OpenAI-compatible server, and from its chunks to an output."""

from __future__ import annotations

from dataclasses import dataclass, field

from windrow.scheduler.core.fairness import estimate_cost_tokens
from windrow.scheduler.tasks.generate import TOKENS_PER_MESSAGE, GenerateCall, GenerateParameters, Prompt
from windrow.worker.engines.upstream.chunks import ChunkChoice, Json, Usage, read_choices, read_usage

#: Parameters that go on by their own name where they are not what they are by themselves. The last four are vLLM's,
#: which llama.cpp knows in part; a server that knows one of them not refuses it or leaves it aside.
PASSED_ON = (
    "max_tokens", "top_p", "presence_penalty", "frequency_penalty", "seed", "n",
    "min_tokens", "ignore_eos", "top_k", "repetition_penalty",
)  # fmt: skip
#: Servers that tell usage with every chunk where they are asked to, by the name in their lists of models. Others may
#: refuse a call that asks for it.
COUNT_ALONG = ("vllm", "sglang")


def path_of(call: GenerateCall) -> str:
    """Where it goes: chats to one route, prompts to the other."""
    return "/completions" if call.prompt.messages is None else "/chat/completions"


def can_count_along(models: object) -> bool:
    """Whether the server with this list of models can be asked for usage with every chunk."""
    listed = models.get("data") if isinstance(models, dict) else None
    return isinstance(listed, list) and any(
        isinstance(model, dict) and model.get("owned_by") in COUNT_ALONG for model in listed
    )


def body_of(call: GenerateCall, model: str, *, counts_along: bool = False) -> Json:
    """The body of the streamed call; with ``counts_along``, to a server that can tell usage with every chunk."""
    parameters, prompt = call.parameters, call.prompt
    options = {"include_usage": True}
    if counts_along and parameters.n == 1:  # of several choices, it is not said whose tokens they are
        options["continuous_usage_stats"] = True
    body: Json = {"model": model, "stream": True, "stream_options": options}
    body["temperature"] = parameters.temperature
    if prompt.messages is not None:
        body["messages"] = [message.model_dump() for message in prompt.messages]
    else:
        body["prompt"] = prompt.prompt if prompt.prompt_ids is None else prompt.prompt_ids
    for name in PASSED_ON:
        value = getattr(parameters, name)
        if value != GenerateParameters.model_fields[name].default:
            body[name] = value
    # Said all the same where it is left open: completions stop at 16 tokens otherwise.
    body.setdefault("max_tokens", parameters.wanted_tokens)
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if parameters.logprobs is not None:
        more = {"logprobs": parameters.logprobs}
        body |= more if prompt.messages is None else {"logprobs": True, "top_logprobs": parameters.logprobs}
    if parameters.json_schema is not None:
        schema = {"name": "answer", "schema": parameters.json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def estimate_tokens(prompt: Prompt) -> int:
    """About how many tokens it has; the tokenizer is the server's."""
    ids, turns = len(prompt.prompt_ids or ()), len(prompt.messages or ())
    return ids + TOKENS_PER_MESSAGE * turns + sum(estimate_cost_tokens(len(text)) for text in prompt.texts)


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """What one chunk brought one choice."""

    index: int
    text: str
    #: New ones that are known of.
    tokens: int
    logprobs: list[Json]


@dataclass(slots=True)
class _ChoiceText:
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    finish_reason: str | None = None
    #: Tokens that its pieces told of.
    told_tokens: int = 0

    @property
    def most_tokens(self) -> int:
        """Those that are known of, or one a chunk."""
        return max(self.told_tokens, len(self.texts))


@dataclass(slots=True)
class UpstreamAnswer:
    """An answer as far as it has come."""

    call: GenerateCall
    choices: list[_ChoiceText] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self.choices = [_ChoiceText() for _ in range(self.call.parameters.n)]

    @property
    def is_whole(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def take(self, chunk: Json) -> list[OutputDelta]:
        """Take up a chunk and return what it brought. Raises `ValueError` for one that is not OpenAI's."""
        usage = read_usage(chunk)
        self.usage = usage or self.usage
        so_far = usage.completion if usage is not None and len(self.choices) == 1 else None
        has_logprobs = self.call.parameters.logprobs is not None
        said = read_choices(chunk, len(self.choices), with_logprobs=has_logprobs)
        return [piece for news in said if (piece := self._take(news, so_far)) is not None]

    def _take(self, news: ChunkChoice, so_far: int | None) -> OutputDelta | None:
        choice = self.choices[news.index]
        choice.finish_reason = news.finish_reason or choice.finish_reason
        if not news.text and not news.logprobs:
            return None
        # A chunk may be of many tokens: where the server does not count along, the first is known to have brought one.
        known = len(news.logprobs) if so_far is None else so_far - choice.told_tokens
        tokens = max(known, 0 if choice.told_tokens else 1)
        choice.told_tokens += tokens
        choice.texts.append(news.text)
        choice.logprobs += news.logprobs
        return OutputDelta(news.index, news.text, tokens, news.logprobs)

    def untold_tokens(self) -> list[int]:
        """Tokens of the whole answer that no piece told of, by choice: whose they are is guessed by chunks."""
        rest = max(0, self._completion_tokens - sum(choice.told_tokens for choice in self.choices))
        chunks = [len(choice.texts) for choice in self.choices]
        shares = [rest * count // max(1, sum(chunks)) for count in chunks]
        return [shares[0] + rest - sum(shares), *shares[1:]]

    def output(self) -> Json:
        """The output of the task generate."""
        made = []
        for index, choice in enumerate(self.choices):
            one: Json = {"index": index, "text": "".join(choice.texts), "finish_reason": choice.finish_reason or "stop"}
            made.append(one | ({"logprobs": choice.logprobs} if self.call.parameters.logprobs is not None else {}))
        output = {name: value for name, value in made[0].items() if name != "index"} | {"usage": self._usage()}
        return output | ({"choices": made} if len(made) > 1 else {})

    @property
    def _completion_tokens(self) -> int:
        said = self.usage.completion
        return sum(choice.most_tokens for choice in self.choices) if said is None else said

    def _usage(self) -> Json:
        said, completion = self.usage, self._completion_tokens
        prompt = estimate_tokens(self.call.prompt) if said.prompt is None else said.prompt
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "cached_tokens": said.cached or 0,
        }
