"""Sampling on the device: penalties, temperature, top-k and top-p, and noise that a seed repeats.

A *row* is one sequence in the logits of a step. Rows with temperature 0 and no penalties are not sampled here: their
token is the largest logit of the forward pass. The parameters of the other rows are on the device by slot, so that a
step sends the row numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from windrow.scheduler.tasks.generate import MAX_LOGPROBS, GenerateParameters

#: Columns of `SlotSampling._knobs`.
TEMPERATURE, TOP_P, TOP_K, REPETITION, PRESENCE, FREQUENCY = range(6)
_LOW_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """What a row needs beside the largest logit; a step computes only what one of its rows needs."""

    samples: bool
    #: Has a repetition, presence or frequency penalty.
    penalizes: bool
    #: End tokens are excluded before this position of the context; 0 if they always count.
    ends_from: int
    #: Log probabilities are requested.
    logprobs: bool
    #: Has top-k or top-p.
    cuts: bool

    @classmethod
    def of(cls, parameters: GenerateParameters, prompt_tokens: int) -> SamplingParameters | None:
        """Return the parameters of a request, or None if its token is always the largest logit."""
        samples = parameters.temperature > 0
        penalizes = (
            parameters.repetition_penalty != 1 or parameters.presence_penalty != 0 or parameters.frequency_penalty != 0
        )
        ends_from = prompt_tokens + parameters.min_tokens if parameters.min_tokens and not parameters.ignore_eos else 0
        logprobs = parameters.logprobs is not None
        if not (samples or penalizes or ends_from or logprobs or parameters.json_schema is not None):
            return None
        cuts = samples and (parameters.top_k > 0 or parameters.top_p < 1)
        return cls(samples, penalizes, ends_from, logprobs, cuts)


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """Tokens of some rows, and their log probabilities if requested."""

    #: (rows,); -1 if the logits contain NaN or infinity.
    tokens: Tensor
    #: (rows, 1 + `MAX_LOGPROBS`) log probability of the token, then of the most likely ones; None if not requested.
    logprobs: Tensor | None
    #: (rows, `MAX_LOGPROBS`) the most likely tokens.
    likeliest: Tensor | None


class SlotSampling:
    """The sampling parameters of all slots, on the device."""

    def __init__(self, slots: int, vocabulary: int, eos_ids: Sequence[int], device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._knobs = torch.zeros((slots, 6), dtype=torch.float32, device=device)
        #: Seed, and the position from which end tokens count.
        self._seeds = torch.zeros((slots, 2), dtype=torch.int64, device=device)
        self._eos_ids = torch.tensor(list(eos_ids), dtype=torch.int64, device=device)
        #: (slots, vocabulary): how often each token was generated, and whether it is in the prompt. They are large, so
        #: they are None until a request has a penalty.
        self._generated: Tensor | None = None
        self._prompted: Tensor | None = None

    def set(
        self, slot: int, parameters: GenerateParameters, sampling: SamplingParameters, seed: int, prompt: Sequence[int],
        generated: Sequence[int],
    ) -> None:  # fmt: skip
        """Assign ``slot`` to a sequence; ``generated`` are its tokens from before it was preempted."""
        knobs = [
            parameters.temperature, parameters.top_p, float(parameters.top_k), parameters.repetition_penalty,
            parameters.presence_penalty, parameters.frequency_penalty,
        ]  # fmt: skip
        self._knobs[slot].copy_(self._sent(torch.tensor(knobs)), non_blocking=True)
        self._seeds[slot].copy_(self._sent(torch.tensor([seed, sampling.ends_from])), non_blocking=True)
        if sampling.penalizes:
            if self._generated is None or self._prompted is None:
                size = (len(self._knobs), self._vocabulary)
                self._generated = torch.zeros(size, dtype=torch.int32, device=self._device)
                self._prompted = torch.zeros(size, dtype=torch.bool, device=self._device)
            counts = torch.bincount(torch.tensor(list(generated), dtype=torch.int64), minlength=self._vocabulary)
            self._generated[slot].copy_(self._sent(counts.to(torch.int32)), non_blocking=True)
            seen = torch.zeros(self._vocabulary, dtype=torch.bool)
            seen[torch.tensor(list(prompt), dtype=torch.int64)] = True
            self._prompted[slot].copy_(self._sent(seen), non_blocking=True)

    def _sent(self, values: Tensor) -> Tensor:
        # A copy from pageable memory blocks the host.
        return values.pin_memory() if self._device.type == "cuda" else values

    def draw(
        self,
        logits: Tensor,
        slots: Tensor,
        positions: Tensor,
        parameters: Sequence[SamplingParameters],
        allowed: Tensor | None = None,
    ) -> SampledTokens:
        """Draw a token for each of the (rows, vocabulary) ``logits``.

        ``slots`` (rows,) are the slots of the rows, and ``positions`` (rows,) those of the new tokens in their
        contexts. ``allowed`` (rows, vocabulary) is False for tokens that a row's schema excludes; None allows all.
        """
        scores = logits.float()
        drawn_logprobs = torch.log_softmax(scores, -1) if any(row.logprobs for row in parameters) else None
        finite = torch.isfinite(scores.amax(-1))
        knobs = self._knobs[slots]
        penalizes = any(row.penalizes for row in parameters)
        if penalizes:
            scores = self._penalized(scores, slots, knobs)
        if any(row.ends_from for row in parameters):
            early = positions < self._seeds[slots, 1]
            scores = scores.index_put(
                (torch.arange(len(scores), device=scores.device)[:, None], self._eos_ids[None]),
                scores[:, self._eos_ids].masked_fill(early[:, None], float("-inf")),
            )
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        tokens = scores.argmax(-1)
        if any(row.samples for row in parameters):
            temperature = knobs[:, TEMPERATURE]
            scaled = scores / temperature.clamp(min=1e-6)[:, None]
            if any(row.cuts for row in parameters):
                scaled = cut(scaled, knobs[:, TOP_K], knobs[:, TOP_P])
            noisy = scaled + gumbel(self._seeds[slots, 0], positions, scaled.shape[1])
            tokens = torch.where(temperature > 0, noisy.argmax(-1), tokens)
        if penalizes:
            assert self._generated is not None
            self._generated.index_put_((slots, tokens), torch.ones_like(tokens, dtype=torch.int32), accumulate=True)
        tokens = torch.where(finite, tokens, -1)
        if drawn_logprobs is None:
            return SampledTokens(tokens, None, None)
        chosen = drawn_logprobs.gather(1, tokens.clamp(min=0)[:, None])
        best, likeliest = drawn_logprobs.topk(min(MAX_LOGPROBS, drawn_logprobs.shape[1]), -1)
        return SampledTokens(tokens, torch.cat([chosen, best], 1), likeliest)

    def _penalized(self, scores: Tensor, slots: Tensor, knobs: Tensor) -> Tensor:
        """Apply the penalties. Rows without penalties have 1, 0 and 0, which change nothing.

        The repetition penalty is that of Keskar et al. (2019), over prompt and generated tokens; the other two are
        OpenAI's, over the generated tokens.
        """
        assert self._generated is not None
        assert self._prompted is not None
        penalizing = (knobs[:, REPETITION] != 1) | (knobs[:, PRESENCE] != 0) | (knobs[:, FREQUENCY] != 0)
        # An earlier request may have left counts in the slot.
        counts = self._generated[slots] * penalizing[:, None]
        seen = (counts > 0) | (self._prompted[slots] & penalizing[:, None])
        repetition = knobs[:, REPETITION, None]
        scores = torch.where(seen, torch.where(scores > 0, scores / repetition, scores * repetition), scores)
        return scores - (counts > 0) * knobs[:, PRESENCE, None] - counts * knobs[:, FREQUENCY, None]


def cut(scores: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Keep the ``top_k`` (0 for all) largest scores of each row, and of these the fewest that reach ``top_p``."""
    ordered, order = scores.sort(-1, descending=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    ordered = ordered.masked_fill((rank >= top_k[:, None]) & (top_k[:, None] > 0), float("-inf"))
    shares = ordered.softmax(-1)
    # The probability before a token decides, so that the first token is always kept.
    ordered = ordered.masked_fill((shares.cumsum(-1) - shares >= top_p[:, None]) & (rank > 0), float("-inf"))
    return torch.empty_like(scores).scatter_(1, order, ordered)


def gumbel(seeds: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Return (rows, vocabulary) noise that depends on seed, position and token only, not on the rest of the batch.

    Adding it to log probabilities and taking the largest draws from them (Gumbel-max trick).
    """
    key = _mixed(_mixed(seeds & _LOW_32) ^ _mixed((seeds >> 32) & _LOW_32) ^ _mixed(positions.long() + 0x51ED27))
    each = torch.arange(vocabulary, dtype=torch.int64, device=seeds.device) * 0x9E3779B1 & _LOW_32
    bits = _mixed((key[:, None] + each[None]) & _LOW_32)
    uniform = ((bits >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _mixed(x: Tensor) -> Tensor:
    """Return a 32-bit integer hash (C. Wellons' lowbias32) of each int64."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _LOW_32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _LOW_32
    return x ^ (x >> 16)
