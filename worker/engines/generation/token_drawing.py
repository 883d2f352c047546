"""Draws the tokens of the rows that need more than the most likely token: sampling, penalties, schemas, logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from windrow.errors import InvalidInput
from windrow.scheduler.core.outcomes import Failed
from windrow.worker.engines.generation.answers import GeneratedChoice
from windrow.worker.engines.generation.constraints import empty_masks, unpacked
from windrow.worker.engines.generation.loading import LoadedModel
from windrow.worker.engines.generation.sampling import SampledTokens, SamplingParameters


@dataclass(slots=True)
class Drawn:
    """The results that the tokens themselves do not show."""

    #: The choices that ask for log probabilities, the row of each, and the values of all rows, on the host.
    logprobs: list[tuple[GeneratedChoice, int, SampledTokens]] = field(default_factory=list)
    #: The choices whose text cannot be held to its schema any further.
    failed: list[tuple[GeneratedChoice, Failed]] = field(default_factory=list)


def draw_tokens(
    model: LoadedModel, logits: Tensor, tokens: Tensor, choices: Sequence[GeneratedChoice | None], slots: Sequence[int]
) -> Drawn | None:
    """Draw from (rows, vocabulary) ``logits``; replace in (rows,) ``tokens`` and on the device what was drawn.

    Returns None if every choice takes the most likely token. A row without a choice is left as it is.
    """
    picked = [row for row, choice in enumerate(choices) if choice is not None and choice.sampling is not None]
    if not picked:
        return None
    device, drawn = model.slots, Drawn()
    drawing = [choice for choice in choices if choice is not None and choice.sampling is not None]
    parameters: list[SamplingParameters] = [choice.sampling for choice in drawing if choice.sampling is not None]
    rows, owners = device.sent([picked, [slots[row] for row in picked]])
    allowed = _allowed_tokens(model, drawing, logits.shape[1], drawn)
    sampled = model.sampling.draw(logits[rows], owners, device.positions[owners], parameters, allowed)
    tokens[rows] = sampled.tokens
    device.tokens[owners] = sampled.tokens
    if allowed is not None:
        on_host, arrived = device.to_host(sampled.tokens), device.mark()
        for row, choice in enumerate(drawing):
            if choice.constraint is not None:
                choice.constraint.drew(on_host, row, arrived)
    if sampled.logprobs is not None:
        values = (device.to_host(value) for value in (sampled.logprobs, sampled.likeliest))
        host = SampledTokens(sampled.tokens, *values)
        drawn.logprobs = [(choice, row, host) for row, choice in enumerate(drawing) if choice.logprobs is not None]
    return drawn


def _allowed_tokens(
    model: LoadedModel, drawing: Sequence[GeneratedChoice], vocabulary: int, drawn: Drawn
) -> Tensor | None:
    """Return (rows, vocabulary) bool, the tokens that the schemas allow; None if no choice has a schema."""
    if all(choice.constraint is None for choice in drawing):
        return None
    masks = empty_masks(len(drawing), vocabulary)
    for row, choice in enumerate(drawing):
        if choice.constraint is not None and (error := choice.constraint.fill(masks, row)):
            drawn.failed.append((choice, Failed(InvalidInput(error))))
    return unpacked(model.slots.sent(masks).to(torch.int32), vocabulary)
