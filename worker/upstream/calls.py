"""From a request of the task generate to the call of an OpenAI-compatible server, and from its chunks to an output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scheduler.core.fairness import estimate_cost_tokens
from scheduler.tasks.generate import TOKENS_PER_MESSAGE, GenerateCall, GenerateParameters, Prompt

Json = dict[str, Any]
#: Parameters that go on by their own name where they are not what they are by themselves. The last four are vLLM's,
#: which llama.cpp knows in part; a server that knows one of them not refuses it or leaves it aside.
PASSED_ON = (
    "max_tokens", "top_p", "presence_penalty", "frequency_penalty", "seed", "n",
    "min_tokens", "ignore_eos", "top_k", "repetition_penalty",
)  # fmt: skip


def path_of(call: GenerateCall) -> str:
    """Where it goes: chats to one route, prompts to the other."""
    return "/completions" if call.prompt.messages is None else "/chat/completions"


def body_of(call: GenerateCall, model: str) -> Json:
    """The body of the streamed call."""
    parameters, prompt = call.parameters, call.prompt
    body: Json = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
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
class Piece:
    """What one chunk brought one choice."""

    index: int
    text: str
    logprobs: list[Json]


@dataclass(slots=True)
class _Choice:
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(slots=True)
class Answer:
    """An answer as far as it has come."""

    call: GenerateCall
    choices: list[_Choice] = field(default_factory=list)
    usage: Json | None = None
    #: Chunks with text, each of a token where the server does not say.
    chunks: int = 0

    def __post_init__(self) -> None:
        self.choices = [_Choice() for _ in range(self.call.parameters.n)]

    @property
    def is_whole(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def take(self, chunk: Json) -> list[Piece]:
        """Take up a chunk and return what it brought. Raises `ValueError` for one that is not OpenAI's."""
        try:
            if chunk.get("usage"):
                self.usage = chunk["usage"]
            return [piece for choice in chunk.get("choices") or () if (piece := self._take(choice)) is not None]
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"a chunk that is not OpenAI's ({type(error).__name__})") from error

    def _take(self, said: Json) -> Piece | None:
        choice = self.choices[said.get("index", 0)]
        if said.get("finish_reason"):
            # Some servers name reasons of their own.
            choice.finish_reason = "length" if said["finish_reason"] == "length" else "stop"
        text = (said["delta"].get("content") if "delta" in said else said.get("text")) or ""
        logprobs = _logprobs(said.get("logprobs")) if self.call.parameters.logprobs is not None else []
        if not text and not logprobs:
            return None
        self.chunks += 1
        choice.texts.append(text)
        choice.logprobs += logprobs
        return Piece(said.get("index", 0), text, logprobs)

    def output(self) -> Json:
        """The output of the task generate."""
        made = []
        for index, choice in enumerate(self.choices):
            one: Json = {"index": index, "text": "".join(choice.texts), "finish_reason": choice.finish_reason or "stop"}
            made.append(one | ({"logprobs": choice.logprobs} if self.call.parameters.logprobs is not None else {}))
        output = {name: value for name, value in made[0].items() if name != "index"} | {"usage": self._usage()}
        return output | ({"choices": made} if len(made) > 1 else {})

    def _usage(self) -> Json:
        said = self.usage or {}
        prompt = said.get("prompt_tokens", estimate_tokens(self.call.prompt))
        completion = said.get("completion_tokens", self.chunks)
        cached = (said.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "cached_tokens": cached,
        }


def _logprobs(said: Json | None) -> list[Json]:
    """Log probabilities as chats have them; completions have them in columns."""
    if not said:
        return []
    if "content" in said:
        return list(said["content"] or ())
    tops = said.get("top_logprobs") or [None] * len(said["tokens"])
    return [
        _entry(token, logprob) | {"top_logprobs": [_entry(other, value) for other, value in (top or {}).items()]}
        for token, logprob, top in zip(said["tokens"], said["token_logprobs"], tops, strict=True)
    ]


def _entry(token: str, logprob: float | None) -> Json:
    return {"token": token, "logprob": -9999.0 if logprob is None else logprob, "bytes": list(token.encode())}
