"""The host's side of a step: from tokens that arrived to what is told of each request."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from windrow.errors import ModelFailed
from windrow.scheduler.core.outcomes import Failed, Outcome
from windrow.scheduler.stepping.sequences import StepPlan
from windrow.worker.engines.base import Delta, stream_interval_s
from windrow.worker.engines.generation.answers import GeneratedAnswer, GeneratedChoice, logprob_entry, output_of
from windrow.worker.engines.generation.kv_cache import PagedCache
from windrow.worker.engines.generation.sampling import SampledTokens


@dataclass(slots=True)
class StepHandle:
    """One step on its way."""

    plan: StepPlan
    #: Who got a token: first those that decoded, then those whose prompt was read to its end.
    decoded: list[GeneratedChoice]
    began: list[GeneratedChoice]
    #: (tokens of decoded, then of all pieces), in host memory once ``arrived`` is over.
    tokens: Tensor
    #: Where in ``tokens`` each of ``began`` is.
    began_at: list[int]
    #: Choice, its row in the drawn ones, and what was drawn for it.
    logprobs: list[tuple[GeneratedChoice, int, SampledTokens]]
    #: Whose passes raised when they ran alone.
    failed: dict[GeneratedChoice, Failed] = field(default_factory=dict)
    #: On CUDA, when the device began and when the tokens have arrived; None where they are there already.
    span: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    #: Elsewhere, how long the passes took, in seconds.
    took_s: float = 0.0


class Collector:
    """Turns tokens into answers. `deltas_of` is for one thread, beside that of the steps."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: frozenset[int], cache: PagedCache) -> None:
        self._tokenizer, self._eos_ids, self._cache = tokenizer, eos_ids, cache
        #: What is looked at among the tokens of a step: ends, and -1 for what is no number.
        self._marks = np.array([-1, *eos_ids], dtype=np.int64)
        #: Everybody who is in and wants to hear of it.
        self.requests: dict[str, GeneratedAnswer] = {}
        #: Choices that ended by content or were canceled, for the scheduler.
        self.ended: deque[GeneratedChoice] = deque()

    def drop(self, id: str) -> bool:
        """Tell nothing more of a request and end its choices; whether it was in."""
        request = self.requests.pop(id, None)
        if request is None:
            return False
        request.is_over = True
        self.ended.extend(request.choices)
        return True

    def deltas_of(self, handle: StepHandle) -> list[Delta]:
        """What a step gave whom, once its tokens have arrived."""
        tokens = handle.tokens.tolist()
        decoded = handle.decoded
        for choice, token in zip(decoded, tokens, strict=False):
            choice.ids.append(token)
        for choice, at in zip(handle.began, handle.began_at, strict=True):
            choice.ids.append(tokens[at])
        for choice, row, drawn in handle.logprobs:
            self._note_logprobs(choice, row, drawn)
        # Of most rows nothing is to be said: they are not streamed or were told of a moment ago, and go on.
        now_s = time.monotonic()
        watched = [choice for choice in decoded if choice.text is not None]
        loud = [choice for choice in watched if choice.due_s <= now_s]
        values = handle.tokens[: len(decoded)].numpy()
        marked = (values[:, None] == self._marks).any(1).nonzero()[0]
        loud += [decoded[at] for at in marked]
        loud += handle.began
        loud += [sequence.id for sequence in handle.plan.ended]
        deltas = []
        for choice in dict.fromkeys(loud):
            if choice not in handle.failed and not choice.request.is_over and choice.finish_reason is None:
                deltas += self._told(choice)
                if not choice.request.input.parameters.stop:
                    choice.due_s = now_s + stream_interval_s(len(watched))
        for choice, failed in handle.failed.items():
            if not choice.request.is_over:
                deltas.append(self._fail(choice.request, failed))
        return deltas

    def _told(self, choice: GeneratedChoice) -> list[Delta]:
        """What there is to say of a choice that got a token; ends it where that was its last."""
        request = choice.request
        if choice.ids[-1] < 0:
            self._cache.has_nan = True
            return [self._fail(request, Failed(ModelFailed("the model answered with NaN or infinity")))]
        first, request.has_begun = not request.has_begun, True
        text = choice.advance(self._eos_ids)
        outcome: Outcome | None = None
        if choice.finish_reason is not None:
            self.ended.append(choice)
            if all(one.finish_reason is not None for one in request.choices):
                outcome = output_of(request, self._tokenizer)
                self.requests.pop(request.id, None)
        told = choice.tokens if choice.finish_reason is not None else len(choice.ids)
        if not (request.stream or first or outcome):
            return []
        delta = Delta(
            request.id, choice.index, text, told - choice.told,
            None if choice.logprobs is None else choice.logprobs[choice.told : told],
            outcome, first,
        )  # fmt: skip
        choice.told = told
        return [delta]

    def _fail(self, request: GeneratedAnswer, failed: Failed) -> Delta:
        self.drop(request.id)
        return Delta(request.id, 0, "", 0, None, failed, False)

    def _note_logprobs(self, choice: GeneratedChoice, row: int, drawn: SampledTokens) -> None:
        assert choice.logprobs is not None
        assert drawn.logprobs is not None
        assert drawn.likeliest is not None
        wanted = choice.request.input.parameters.logprobs or 0
        values, likeliest = drawn.logprobs[row].tolist(), drawn.likeliest[row].tolist()
        token = max(0, choice.ids[-1])
        choice.logprobs.append(
            logprob_entry(self._tokenizer, token, values[0], likeliest[:wanted], values[1 : 1 + wanted])
        )
