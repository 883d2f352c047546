"""Requests and their choices on the host: the generated tokens, the end of a text, and the output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.stepping.sequences import GeneratingSequence
from windrow.scheduler.tasks.generate import generate_output
from windrow.worker.engines.generation.constraints import Constraint
from windrow.worker.engines.generation.incremental_text import IncrementalText
from windrow.worker.engines.generation.inputs import GenerateInput
from windrow.worker.engines.generation.sampling import SamplingParameters


@dataclass(slots=True, eq=False)
class GeneratingRequest:
    """A request that is being generated, and its choices."""

    id: str
    input: GenerateInput
    stream: bool
    choices: list[GeneratedChoice] = field(default_factory=list)
    #: Canceled or failed: it has no further output.
    is_over: bool = False
    has_begun: bool = False


@dataclass(slots=True, eq=False)
class GeneratedChoice:
    """One of the texts that a request asks for."""

    request: GeneratingRequest
    index: int
    sequence: GeneratingSequence
    #: Set if its tokens are not simply the most likely ones.
    sampling: SamplingParameters | None
    #: Set if text is decoded during generation: for streams, and to find stop strings.
    text: IncrementalText | None
    #: Generated tokens. A few that were computed after the end may follow; they do not count.
    ids: list[int]
    logprobs: list[dict[str, Any]] | None
    #: Set if the text has to meet a schema.
    constraint: Constraint | None = None
    #: Number of tokens that were part of deltas.
    reported: int = 0
    #: ``stop`` or ``length`` after the end; then also the number of tokens that count, and of those that are text.
    finish_reason: str | None = None
    tokens: int = 0
    text_tokens: int = 0
    cached_tokens: int = 0
    #: Earliest `time.monotonic` at which new tokens are decoded to text. With stop strings, every step decodes.
    due_s: float = 0.0

    def advance(self, eos_ids: frozenset[int]) -> str:
        """Read the new tokens; return the new text, if text is decoded, and set `finish_reason` at the end."""
        parameters, count = self.request.input.parameters, len(self.ids)
        is_end = self.ids[-1] in eos_ids and not parameters.ignore_eos
        if is_end or count >= self.request.input.max_tokens:
            self._end("stop" if is_end else "length", count - is_end)
        if self.text is None:
            return ""
        fresh = self.text.advance(
            count - is_end, is_last=self.finish_reason is not None, may_stop=count >= parameters.min_tokens
        )
        if self.text.stopped:
            self._end("stop", count)
        return fresh

    def _end(self, reason: str, text_tokens: int) -> None:
        self.finish_reason, self.tokens, self.text_tokens = reason, len(self.ids), text_tokens

    def whole_text(self, tokenizer: Tokenizer) -> str:
        """Return the text of a finished choice."""
        if self.text is not None:
            return self.text.text
        return tokenizer.decode(self.ids[: self.text_tokens], skip_special_tokens=True)


def output_of(request: GeneratingRequest, tokenizer: Tokenizer) -> Done:
    """Return the output of a request whose choices have all finished."""
    choices: list[dict[str, Any]] = []
    for choice in request.choices:
        entry = {"index": choice.index, "text": choice.whole_text(tokenizer), "finish_reason": choice.finish_reason}
        if choice.logprobs is not None:
            entry["logprobs"] = choice.logprobs[: choice.tokens]
        choices.append(entry)
    completion_tokens = sum(choice.tokens for choice in request.choices)
    # The further choices find the prompt of the first in the cache, so only its cached tokens count.
    return Done(generate_output(choices, len(request.input.ids), completion_tokens, request.choices[0].cached_tokens))


def logprob_entry(
    tokenizer: Tokenizer, token: int, logprob: float, likeliest: list[int], logprobs: list[float]
) -> dict[str, Any]:
    """Return one token in the format of OpenAI's ``logprobs.content``."""
    return _token_entry(tokenizer, token, logprob) | {
        "top_logprobs": [
            _token_entry(tokenizer, other, value) for other, value in zip(likeliest, logprobs, strict=True)
        ]
    }


def _token_entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token], skip_special_tokens=False)
    # JSON has no infinity; the lowest value in OpenAI's interface is -9999.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}
