"""Runs the forward passes that the step scheduler plans: one over all decoding sequences, one over prompt chunks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.stepping.sequences import GeneratingSequence, PrefillChunk, StepPlan
from windrow.worker.engines.generation.answers import GeneratedChoice
from windrow.worker.engines.generation.bisection import run_bisected
from windrow.worker.engines.generation.collecting import StepHandle
from windrow.worker.engines.generation.loading import LoadedModel
from windrow.worker.engines.generation.slots import PromptChunk
from windrow.worker.engines.generation.token_drawing import draw_tokens

log = logging.getLogger(__name__)


class StepRunner:
    """The rows of the forward pass that decodes, and the forward passes of one model. Used by the step thread only."""

    def __init__(self, model: LoadedModel, end: Callable[[GeneratingSequence], None]) -> None:
        """``end`` is called at once for a sequence that failed: no other may share the pages that it did not write."""
        self._model, self._end = model, end
        #: Choices that decode, the slot of each, and the row of each choice.
        self._rows: list[GeneratedChoice] = []
        self._slots_of_rows: list[int] = []
        self._row_of: dict[GeneratedChoice, int] = {}

    def run(self, plan: StepPlan) -> StepHandle:
        """Start the forward passes of one step and return without waiting for the device."""
        slots = self._model.slots
        began, began_s = slots.mark(), time.monotonic()
        self._update_rows(plan)
        handle = StepHandle(plan, list(self._rows), [], torch.empty(0, dtype=torch.int64), [], [])
        if not plan.runs:
            return handle
        self._set_pages(plan)
        tokens: list[Tensor] = []
        if self._rows:
            tokens.append(self._decode(plan, handle))
        if plan.chunks:
            tokens.append(self._prefill(plan.chunks, handle))
        handle.tokens = slots.to_host(torch.cat(tokens) if len(tokens) > 1 else tokens[0])
        arrived = slots.mark()
        handle.span = None if began is None or arrived is None else (began, arrived)
        handle.took_s = time.monotonic() - began_s
        return handle

    def _update_rows(self, plan: StepPlan) -> None:
        for sequence in plan.stopped:
            row = self._row_of.pop(sequence.id)
            last, slot = self._rows.pop(), self._slots_of_rows.pop()
            if row < len(self._rows):
                self._rows[row], self._slots_of_rows[row] = last, slot
                self._row_of[last] = row
        for sequence in plan.started:
            self._row_of[sequence.id] = len(self._rows)
            self._rows.append(sequence.id)
            self._slots_of_rows.append(slot_of(sequence))

    def _set_pages(self, plan: StepPlan) -> None:
        """Send the new pages of each slot to the device, and the sampling parameters of admitted sequences."""
        owners: list[int] = []
        places: list[int] = []
        pages: list[int] = []
        for sequence in plan.grown:
            owners.append(slot_of(sequence))
            places.append(len(sequence.pages) - 1)
            pages.append(sequence.pages[-1])
        for sequence in plan.admitted:
            owners += [slot_of(sequence)] * len(sequence.pages)
            places += range(len(sequence.pages))
            pages += sequence.pages
            choice: GeneratedChoice = sequence.id
            if not choice.ids:
                choice.cached_tokens = sequence.cached_tokens
            if choice.sampling is not None:
                prepared = choice.request.input
                self._model.sampling.set(
                    slot_of(sequence), prepared.parameters, choice.sampling, prepared.seeds[choice.index], prepared.ids,
                    choice.ids[: sequence.generated_before],
                )  # fmt: skip
        if owners:
            self._model.slots.set_pages([slot_of(sequence) for sequence in plan.admitted], owners, places, pages)

    def _decode(self, plan: StepPlan, handle: StepHandle) -> Tensor:
        """Start the decoding pass; return (rows,) tokens.

        In a static batch, rows of the unused slot replace those of ended sequences.
        """
        slots = self._model.slots
        rows = self._slots_of_rows + [slots.nobody] * (plan.rows - len(self._rows))
        logits, tokens = run_bisected(
            slots.decode, rows, lambda row, failed: self._fail(handle.decoded[row], failed, handle)
        )
        self._draw(logits, tokens, handle.decoded, self._slots_of_rows, handle)
        return tokens

    def _prefill(self, chunks: Sequence[PrefillChunk], handle: StepHandle) -> Tensor:
        """Start the forward pass that reads prompts; return (chunks,) tokens, which are valid for last chunks only."""
        inputs = []
        for chunk in chunks:
            choice: GeneratedChoice = chunk.sequence.id
            ids = choice.request.input.ids
            if chunk.start + chunk.tokens > len(ids):  # it was preempted, and reads its generated tokens too
                ids = ids + choice.ids
            inputs.append(
                PromptChunk(slot_of(chunk.sequence), ids[chunk.start : chunk.start + chunk.tokens], chunk.start)
            )
        logits, tokens = run_bisected(
            self._model.slots.read, inputs, lambda row, failed: self._fail(chunks[row].sequence.id, failed, handle)
        )
        last = [row for row, chunk in enumerate(chunks) if chunk.is_last]
        handle.began = [chunks[row].sequence.id for row in last]
        handle.began_at = [handle.plan.rows * bool(handle.decoded) + row for row in last]
        choices = [chunk.sequence.id if chunk.is_last else None for chunk in chunks]
        self._draw(logits, tokens, choices, [chunk.slot for chunk in inputs], handle)
        return tokens

    def _draw(
        self, logits: Tensor, tokens: Tensor, choices: Sequence[GeneratedChoice | None], slots: Sequence[int],
        handle: StepHandle,
    ) -> None:  # fmt: skip
        """Replace the most likely tokens in the rows that asked for something else."""
        drawn = draw_tokens(self._model, logits, tokens, choices, slots)
        if drawn is not None:
            handle.logprobs += drawn.logprobs
            for choice, failed in drawn.failed:
                self._fail(choice, failed, handle)

    def _fail(self, choice: GeneratedChoice, failed: Failed, handle: StepHandle) -> None:
        log.warning("request %s: %s", choice.request.id, failed.error.detail)
        handle.failed[choice] = failed
        self._end(choice.sequence)


def slot_of(sequence: GeneratingSequence) -> int:
    """Return the slot of a running sequence."""
    assert sequence.slot is not None
    return sequence.slot
