"""The engine of task ``generate``: everybody who is in gets a token at every step.

`step` lets the pure scheduler plan, starts the passes and returns at once; `collect`, in another thread, waits for the
device and turns tokens into answers. Ends by content reach the scheduler a step or two late: what such a sequence was
given beyond its end is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from windrow.errors import InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.stepping.sequences import GeneratingSequence, PrefillChunk, StepLimits, StepPlan
from windrow.scheduler.stepping.step_scheduler import StepScheduler
from windrow.worker.engines.base import Delta, EngineInfo, Prepared
from windrow.worker.engines.generation.answers import GeneratedAnswer, GeneratedChoice
from windrow.worker.engines.generation.cache_metrics import CacheMetrics
from windrow.worker.engines.generation.collecting import Collector, StepHandle
from windrow.worker.engines.generation.constraints import Constraint, empty_masks, unpacked
from windrow.worker.engines.generation.halving import run_halved
from windrow.worker.engines.generation.incremental_text import IncrementalText
from windrow.worker.engines.generation.inputs import GenerateInput
from windrow.worker.engines.generation.loading import LoadedModel, load_model
from windrow.worker.engines.generation.sampling import SampledTokens, SamplingParameters
from windrow.worker.engines.generation.slots import PromptChunk

log = logging.getLogger(__name__)
#: Steps that may be started before the first of them was collected: the device has the next one when it ends one.
AHEAD = 2


class GenerateEngine:
    """A `StepEngine` for decoders of transformers."""

    def __init__(self, name: str, settings: ModelSettings, model: LoadedModel | None = None) -> None:
        """Load the model, unless ``model`` is it already, and check that it answers through the cache as without.

        Raises `ModelUnusable`.
        """
        self.busy_s = 0.0
        self._model = model or load_model(name, settings)
        cache, prompts = self._model.slots.cache, self._model.prompts
        self._tokenizer = prompts.tokenizer
        self._scheduler = StepScheduler(
            settings.strategy,
            StepLimits(
                max_batch_size=settings.max_batch_size,
                max_batch_tokens=settings.max_batch_tokens,
                pages=cache.pages,
                page_tokens=cache.page_tokens,
                prefill_chunk_tokens=settings.prefill_chunk_tokens,
            ),
        )
        self._collector = Collector(self._tokenizer, self._model.eos_ids, cache)
        self._arrived: deque[GeneratedAnswer] = deque()
        self._collected_step = 0
        self._news = threading.Event()
        self._handles = threading.Semaphore(AHEAD)
        #: Choices that decode, and where each of them stands there.
        self._rows: list[GeneratedChoice] = []
        self._slots_of_rows: list[int] = []
        self._row_of: dict[GeneratedChoice, int] = {}
        #: Outcomes of a static batch, until all of it has ended.
        self._held: list[Delta] = []
        self.info = EngineInfo(
            model=name,
            task="generate",
            strategy=settings.strategy,
            strategy_note=None,
            device=self._model.slots.device.type,
            dtype=str(cache.keys.dtype).removeprefix("torch."),
            max_input_tokens=self._model.context_tokens,
            is_captured=self._model.is_captured,
            relative_error=self._model.relative_error,
            max_sequences=self._scheduler.claims.max_sequences,
            pages=cache.pages,
            page_tokens=cache.page_tokens,
        )

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check and tokenise; see `PromptPreparer.prepare`."""
        return self._model.prompts.prepare(inputs, parameters)

    def room(self) -> int:
        """Return how many requests may be added now; see `ClaimLimits.room`."""
        unstarted = [one.input.parameters.n for one in list(self._collector.requests.values()) if not one.has_begun]
        sequences = self._scheduler.waiting + self._scheduler.running + len(self._arrived)
        return self._scheduler.claims.room(sequences - len(unstarted), unstarted)

    def room_by_preemption(self, priority: int) -> int:
        """Return how many requests may be added by preempting others; see `ClaimLimits.room_by_preemption`."""
        requests = list(self._collector.requests.values())
        held = [(one.choices[0].sequence.priority, len(one.choices)) for one in requests]
        return self._scheduler.claims.room_by_preemption(priority, held)

    def cache_use(self) -> CacheMetrics:
        """See `HasCache.cache_use`."""
        return CacheMetrics(self._scheduler.pages_taken, self._scheduler.preemptions)

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Queue a request for the next step. Raises `ValueError` for an id that is in already."""
        if id in self._collector.requests:
            raise ValueError(f"request {id!r} is in already")
        made: GenerateInput = prepared.data
        request = GeneratedAnswer(id, made, stream)
        wishes = SamplingParameters.of(made.parameters, len(made.ids))
        for index in range(made.parameters.n):
            ids: list[int] = []
            watched = stream or made.parameters.stop
            sequence = GeneratingSequence(None, len(made.ids), made.max_tokens, made.page_keys, priority)
            choice = GeneratedChoice(
                request, index, sequence, wishes,
                text=IncrementalText(self._tokenizer, ids, made.parameters.stop) if watched else None,
                ids=ids, logprobs=None if made.parameters.logprobs is None else [],
                constraint=None if made.grammar is None else Constraint(made.grammar),
            )  # fmt: skip
            sequence.id = choice
            request.choices.append(choice)
        request.choices[0].sequence.siblings = [choice.sequence for choice in request.choices[1:]]
        self._collector.requests[id] = request
        self._arrived.append(request)
        self._news.set()

    def cancel(self, id: str) -> None:
        """End a request without an outcome; its slots and pages are free at the next step that is planned."""
        if self._collector.drop(id):
            self._news.set()

    def wait(self, timeout_s: float) -> None:
        """Return when something was added, ended or canceled since the last `step`, at the latest after that long."""
        self._news.wait(timeout_s)

    def step(self) -> StepHandle | None:
        """Plan and start the next step; None where there is nothing to do."""
        self._handles.acquire()
        handle = None
        try:
            self._news.clear()
            self._hear()
            plan = self._scheduler.plan_step()
            if plan is not None:
                with torch.inference_mode():
                    handle = self._run(plan)
        finally:
            if handle is None:
                self._handles.release()
        return handle

    def _hear(self) -> None:
        """Tell the scheduler what happened since the last step."""
        # First how far it is known, then the ends: whoever ended by then is in.
        known = self._collected_step
        ended = self._collector.ended
        while ended:
            self._scheduler.end(ended.popleft().sequence)
        self._scheduler.collected(known)
        while self._arrived:
            request = self._arrived.popleft()
            if not request.is_over:
                self._scheduler.add(request.choices[0].sequence)

    def _run(self, plan: StepPlan) -> StepHandle:
        """Bring the rows up to date and start the passes of one step."""
        slots = self._model.slots
        began, began_s = slots.mark(), time.monotonic()
        self._update_rows(plan)
        handle = StepHandle(plan, list(self._rows), [], torch.empty(0, dtype=torch.int64), [], [])
        if not plan.runs:
            return handle
        self._set_pages(plan)
        made: list[Tensor] = []
        if self._rows:
            made.append(self._decode(plan, handle))
        if plan.chunks:
            made.append(self._read(plan.chunks, handle))
        handle.tokens = slots.to_host(torch.cat(made) if len(made) > 1 else made[0])
        arrived = slots.mark()
        handle.span = None if began is None or arrived is None else (began, arrived)
        handle.took_s = time.monotonic() - began_s
        return handle

    def _update_rows(self, plan: StepPlan) -> None:
        for sequence in plan.stopped:
            at = self._row_of.pop(sequence.id)
            last, slot = self._rows.pop(), self._slots_of_rows.pop()
            if at < len(self._rows):
                self._rows[at], self._slots_of_rows[at] = last, slot
                self._row_of[last] = at
        for sequence in plan.started:
            self._row_of[sequence.id] = len(self._rows)
            self._rows.append(sequence.id)
            self._slots_of_rows.append(slot_of(sequence))

    def _set_pages(self, plan: StepPlan) -> None:
        """Tell the device which pages were given, and what newcomers asked for."""
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
            if choice.wishes is not None:
                made = choice.request.input
                self._model.sampling.set(
                    slot_of(sequence), made.parameters, choice.wishes, made.seeds[choice.index], made.ids,
                    choice.ids[: sequence.generated_before],
                )  # fmt: skip
        if owners:
            self._model.slots.set_pages([slot_of(one) for one in plan.admitted], owners, places, pages)

    def _decode(self, plan: StepPlan, handle: StepHandle) -> Tensor:
        """Start the decoding pass; (rows,) tokens, and nobody's behind them in a static batch with ended rows."""
        slots = self._model.slots
        rows = self._slots_of_rows + [slots.nobody] * (plan.rows - len(self._rows))
        logits, tokens = run_halved(
            slots.decode, rows, lambda at, failed: self._note(handle.decoded[at], failed, handle)
        )
        self._draw(logits, tokens, handle.decoded, self._slots_of_rows, handle)
        return tokens

    def _read(self, chunks: Sequence[PrefillChunk], handle: StepHandle) -> Tensor:
        """Start the pass that reads prompts; (pieces,) tokens, of which those of last pieces count."""
        pieces = []
        for chunk in chunks:
            choice: GeneratedChoice = chunk.sequence.id
            ids = choice.request.input.ids
            if chunk.start + chunk.tokens > len(ids):  # it had to make room, and reads what it was given too
                ids = ids + choice.ids
            pieces.append(
                PromptChunk(slot_of(chunk.sequence), ids[chunk.start : chunk.start + chunk.tokens], chunk.start)
            )
        logits, tokens = run_halved(
            self._model.slots.read, pieces, lambda at, failed: self._note(chunks[at].sequence.id, failed, handle)
        )
        last = [at for at, chunk in enumerate(chunks) if chunk.is_last]
        handle.began = [chunks[at].sequence.id for at in last]
        handle.began_at = [handle.plan.rows * bool(handle.decoded) + at for at in last]
        every = [chunk.sequence.id if chunk.is_last else None for chunk in chunks]
        self._draw(logits, tokens, every, [piece.slot for piece in pieces], handle)
        return tokens

    def _note(self, choice: GeneratedChoice, failed: Failed, handle: StepHandle) -> None:
        """The passes of ``choice`` raise whoever else is in them: it ends with the step."""
        log.warning("request %s: %s", choice.request.id, failed.error.detail)
        handle.failed[choice] = failed
        # Before the next step is planned: nobody may share what was not written.
        self._scheduler.end(choice.sequence)

    def _draw(
        self,
        logits: Tensor,
        tokens: Tensor,
        choices: Sequence[GeneratedChoice | None],
        slots: Sequence[int],
        handle: StepHandle,
    ) -> None:
        """Replace the likeliest tokens, in ``tokens`` and for the next step, where a row asked for something else."""
        picked = [at for at, choice in enumerate(choices) if choice is not None and choice.wishes is not None]
        if not picked:
            return
        device = self._model.slots
        drawers = [choice for choice in choices if choice is not None and choice.wishes is not None]
        wishes: list[SamplingParameters] = [choice.wishes for choice in drawers if choice.wishes is not None]
        rows, owners = device.sent([picked, [slots[at] for at in picked]])
        allowed = self._allowed(drawers, logits.shape[1], handle)
        drawn = self._model.sampling.draw(logits[rows], owners, device.positions[owners], wishes, allowed)
        tokens[rows] = drawn.tokens
        device.tokens[owners] = drawn.tokens
        if allowed is not None:
            on_host, arrived = device.to_host(drawn.tokens), device.mark()
            for row, choice in enumerate(drawers):
                if choice.constraint is not None:
                    choice.constraint.drew(on_host, row, arrived)
        if drawn.logprobs is not None:
            host = SampledTokens(drawn.tokens, *(device.to_host(one) for one in (drawn.logprobs, drawn.likeliest)))
            handle.logprobs += [
                (choice, row, host) for row, choice in enumerate(drawers) if choice.logprobs is not None
            ]

    def _allowed(self, drawers: Sequence[GeneratedChoice], vocabulary: int, handle: StepHandle) -> Tensor | None:
        """(rows, vocabulary) tokens that the schemas of ``drawers`` allow; None if none of them has a schema."""
        if all(choice.constraint is None for choice in drawers):
            return None
        masks = empty_masks(len(drawers), vocabulary)
        for row, choice in enumerate(drawers):
            if choice.constraint is not None and (error := choice.constraint.fill(masks, row)):
                self._note(choice, Failed(InvalidInput(error)), handle)
        return unpacked(self._model.slots.sent(masks).to(torch.int32), vocabulary)

    def collect(self, handle: StepHandle) -> list[Delta]:
        """Wait for the step and tell what it gave; outcomes of a static batch come when all of it has ended."""
        if handle.span is not None:
            began, arrived = handle.span
            arrived.synchronize()
            self.busy_s += began.elapsed_time(arrived) / 1e3
        else:
            self.busy_s += handle.took_s
        deltas = self._collector.deltas_of(handle)
        if self._scheduler.strategy != "continuous":
            self._held += [delta for delta in deltas if delta.outcome is not None]
            deltas = [delta for delta in deltas if delta.outcome is None]
            if handle.plan.released:
                deltas += self._held
                self._held = []
        self._collected_step = handle.plan.number if handle.plan.runs else self._collected_step
        self._news.set()
        self._handles.release()
        return deltas


def slot_of(sequence: GeneratingSequence) -> int:
    """The slot of a sequence that runs."""
    assert sequence.slot is not None
    return sequence.slot
