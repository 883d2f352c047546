"""What comes of the tokens on the host: where an answer ends, its text, and what its request is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.stepping.sequences import GeneratingSequence
from windrow.worker.engines.generation.constraints import Constraint
from windrow.worker.engines.generation.incremental_text import IncrementalText
from windrow.worker.engines.generation.inputs import GenerateInput
from windrow.worker.engines.generation.sampling import SamplingParameters


@dataclass(slots=True, eq=False)
class GeneratedAnswer:
    """One request and its choices."""

    id: str
    input: GenerateInput
    stream: bool
    choices: list[GeneratedChoice] = field(default_factory=list)
    #: Nobody wants to hear of it any more: canceled, or failed.
    is_over: bool = False
    has_begun: bool = False


@dataclass(slots=True, eq=False)
class GeneratedChoice:
    """One answer of a request."""

    request: GeneratedAnswer
    index: int
    sequence: GeneratingSequence
    #: What it needs beside the largest logit.
    wishes: SamplingParameters | None
    #: Set where text is made as it comes: for streams, and to find stop strings.
    text: IncrementalText | None
    #: Its tokens so far; after its end some more may follow, which are nobody's.
    ids: list[int]
    logprobs: list[dict[str, Any]] | None
    #: Set where the answer has to meet a schema.
    constraint: Constraint | None = None
    #: Tokens that deltas told of.
    told: int = 0
    #: ``stop`` or ``length`` once it has ended; and how many of its tokens count, and how many are text.
    finish_reason: str | None = None
    tokens: int = 0
    text_tokens: int = 0
    cached_tokens: int = 0
    #: Where text is made: from when on it is to be made of what came since, `time.monotonic`. Stop strings are looked
    #: for at every step.
    due_s: float = 0.0

    def advance(self, eos_ids: frozenset[int]) -> str:
        """Look at the tokens that came; return the new text, where text is made, and set `finish_reason` at the end."""
        wishes, count = self.request.input.parameters, len(self.ids)
        is_end = self.ids[-1] in eos_ids and not wishes.ignore_eos
        if is_end or count >= self.request.input.max_tokens:
            self._end("stop" if is_end else "length", count - is_end)
        if self.text is None:
            return ""
        fresh = self.text.advance(
            count - is_end, is_last=self.finish_reason is not None, may_stop=count >= wishes.min_tokens
        )
        if self.text.stopped:
            self._end("stop", count)
        return fresh

    def _end(self, reason: str, text_tokens: int) -> None:
        self.finish_reason, self.tokens, self.text_tokens = reason, len(self.ids), text_tokens

    def whole_text(self, tokenizer: Tokenizer) -> str:
        """The text of an ended answer."""
        if self.text is not None:
            return self.text.text
        return tokenizer.decode(self.ids[: self.text_tokens], skip_special_tokens=True)


def output_of(request: GeneratedAnswer, tokenizer: Tokenizer) -> Done:
    """The output object of a request whose choices have all ended."""
    choices: list[dict[str, Any]] = []
    for choice in request.choices:
        made: dict[str, Any] = {
            "index": choice.index,
            "text": choice.whole_text(tokenizer),
            "finish_reason": choice.finish_reason,
        }
        if choice.logprobs is not None:
            made["logprobs"] = choice.logprobs[: choice.tokens]
        choices.append(made)
    prompt_tokens = len(request.input.ids)
    completion_tokens = sum(choice.tokens for choice in request.choices)
    output = {name: value for name, value in choices[0].items() if name != "index"}
    output["usage"] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        # Further choices find the prompt of the first; what counts is what was there before.
        "cached_tokens": request.choices[0].cached_tokens,
    }
    if len(choices) > 1:
        output["choices"] = choices
    return Done(output)


def logprob_entry(
    tokenizer: Tokenizer, token: int, logprob: float, likeliest: list[int], logprobs: list[float]
) -> dict[str, Any]:
    """One token as OpenAI's ``logprobs.content`` has it."""
    return _token_entry(tokenizer, token, logprob) | {
        "top_logprobs": [
            _token_entry(tokenizer, other, value) for other, value in zip(likeliest, logprobs, strict=True)
        ]
    }


def _token_entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token], skip_special_tokens=False)
    # JSON knows no infinity; the least that OpenAI's interface shows is -9999.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}
