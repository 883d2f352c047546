"""The host's side of a step: turns the tokens that arrived into the output of each request."""

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
from windrow.worker.engines.generation.answers import GeneratedChoice, GeneratingRequest, logprob_entry, output_of
from windrow.worker.engines.generation.kv_cache import PagedCache
from windrow.worker.engines.generation.sampling import SampledTokens


@dataclass(slots=True)
class StepHandle:
    """A step that has started and is not collected yet."""

    plan: StepPlan
    #: Choices that get a token: those that decoded, and those whose prompt was read to its end.
    decoded: list[GeneratedChoice]
    began: list[GeneratedChoice]
    #: Tokens of all decoded rows, then of all prompt chunks; in host memory after the second event of ``span``.
    tokens: Tensor
    #: Index in ``tokens`` of each choice in ``began``.
    began_at: list[int]
    #: Choices that ask for log probabilities, the row of each, and the values of all rows.
    logprobs: list[tuple[GeneratedChoice, int, SampledTokens]]
    #: Choices that failed in this step.
    failed: dict[GeneratedChoice, Failed] = field(default_factory=dict)
    #: CUDA events: the device begins, and the tokens have arrived. None on other devices.
    span: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    #: On other devices, the duration of the forward passes in seconds.
    took_s: float = 0.0


class Collector:
    """Turns tokens into output. One thread calls `deltas_of`, beside the step thread."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: frozenset[int], cache: PagedCache) -> None:
        self._tokenizer, self._eos_ids, self._cache = tokenizer, eos_ids, cache
        #: Tokens that need attention: end tokens, and -1 for logits with NaN or infinity.
        self._marks = np.array([-1, *eos_ids], dtype=np.int64)
        #: All unfinished requests by id.
        self.requests: dict[str, GeneratingRequest] = {}
        #: Choices that ended by their content or were canceled, for the scheduler.
        self.ended: deque[GeneratedChoice] = deque()

    def drop(self, id: str) -> bool:
        """End the choices of a request without further output; return whether the request was known."""
        request = self.requests.pop(id, None)
        if request is None:
            return False
        request.is_over = True
        self.ended.extend(request.choices)
        return True

    def deltas_of(self, handle: StepHandle) -> list[Delta]:
        """Return the new output of a step whose tokens have arrived."""
        tokens = handle.tokens.tolist()
        decoded = handle.decoded
        for choice, token in zip(decoded, tokens, strict=False):
            choice.ids.append(token)
        for choice, at in zip(handle.began, handle.began_at, strict=True):
            choice.ids.append(tokens[at])
        for choice, row, drawn in handle.logprobs:
            self._note_logprobs(choice, row, drawn)
        # Most rows have nothing to report: they continue, and are not streamed or were reported a moment ago.
        now_s = time.monotonic()
        watched = [choice for choice in decoded if choice.text is not None]
        reporting = [choice for choice in watched if choice.due_s <= now_s]
        values = handle.tokens[: len(decoded)].numpy()
        marked = (values[:, None] == self._marks).any(1).nonzero()[0]
        reporting += [decoded[at] for at in marked]
        reporting += handle.began
        reporting += [sequence.id for sequence in handle.plan.ended]
        deltas = []
        for choice in dict.fromkeys(reporting):
            if choice not in handle.failed and not choice.request.is_over and choice.finish_reason is None:
                deltas += self._delta_of(choice)
                if not choice.request.input.parameters.stop:
                    choice.due_s = now_s + stream_interval_s(len(watched))
        for choice, failed in handle.failed.items():
            if not choice.request.is_over:
                deltas.append(self._fail(choice.request, failed))
        return deltas

    def _delta_of(self, choice: GeneratedChoice) -> list[Delta]:
        """Return the delta of a choice that got a token, if it has one to report; end the choice at its last token."""
        request = choice.request
        if choice.ids[-1] < 0:
            self._cache.has_nan = True
            return [self._fail(request, Failed(ModelFailed("the model's logits contain NaN or infinity")))]
        first, request.has_begun = not request.has_begun, True
        text = choice.advance(self._eos_ids)
        outcome: Outcome | None = None
        if choice.finish_reason is not None:
            self.ended.append(choice)
            if all(other.finish_reason is not None for other in request.choices):
                outcome = output_of(request, self._tokenizer)
                self.requests.pop(request.id, None)
        reported = choice.tokens if choice.finish_reason is not None else len(choice.ids)
        if not (request.stream or first or outcome):
            return []
        delta = Delta(
            request.id, choice.index, text, reported - choice.reported,
            None if choice.logprobs is None else choice.logprobs[choice.reported : reported],
            outcome, first,
        )  # fmt: skip
        choice.reported = reported
        return [delta]

    def _fail(self, request: GeneratingRequest, failed: Failed) -> Delta:
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
