"""The engine of task ``generate``: each step computes one token for every running sequence.

`GenerateEngine.step` plans a step, starts its forward passes and returns at once. `GenerateEngine.collect`, in another
thread, waits for the device and turns tokens into text. If the content of a sequence ends it, for example an end token,
the scheduler learns this one or two steps later, and the tokens that were computed after the end are dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.stepping.sequences import GeneratingSequence, StepLimits
from windrow.scheduler.stepping.step_scheduler import StepScheduler
from windrow.worker.engines.base import CacheMetrics, Delta, EngineInfo, Prepared
from windrow.worker.engines.generation.answers import GeneratedChoice, GeneratingRequest
from windrow.worker.engines.generation.collecting import Collector, StepHandle
from windrow.worker.engines.generation.constraints import Constraint
from windrow.worker.engines.generation.incremental_text import IncrementalText
from windrow.worker.engines.generation.inputs import GenerateInput
from windrow.worker.engines.generation.loading import LoadedModel, load_model
from windrow.worker.engines.generation.sampling import SamplingParameters
from windrow.worker.engines.generation.step_runner import StepRunner

#: Steps that may be started before the first of them is collected, so that the device never waits for the host.
MAX_STARTED_STEPS = 2


class GenerateEngine:
    """A `StepEngine` for causal language models of transformers."""

    def __init__(self, name: str, settings: ModelSettings, model: LoadedModel | None = None) -> None:
        """Load the model, unless it is given as ``model``. Raises `ModelUnusable`; see `load_model`."""
        self.busy_s = 0.0
        self._model = model or load_model(name, settings)
        cache, prompts = self._model.slots.cache, self._model.prompts
        self._tokenizer = prompts.tokenizer
        self._scheduler = StepScheduler(
            settings.strategy,
            StepLimits(
                settings.max_batch_size, settings.max_batch_tokens, cache.pages, cache.page_tokens,
                settings.prefill_chunk_tokens,
            ),
        )  # fmt: skip
        self._runner = StepRunner(self._model, self._scheduler.end)
        self._collector = Collector(self._tokenizer, self._model.eos_ids, cache)
        self._arrived: deque[GeneratingRequest] = deque()
        self._collected_step = 0
        self._wake = threading.Event()
        self._handles = threading.Semaphore(MAX_STARTED_STEPS)
        #: Outcomes of a static batch, kept until the whole batch has ended.
        self._held: list[Delta] = []
        self.info = EngineInfo(
            model=name, task="generate", strategy=settings.strategy, strategy_note=None,
            device=self._model.slots.device.type, dtype=str(cache.keys.dtype).removeprefix("torch."),
            max_input_tokens=self._model.context_tokens, is_captured=self._model.is_captured,
            relative_error=self._model.relative_error, max_sequences=self._scheduler.claims.max_sequences,
            pages=cache.pages, page_tokens=cache.page_tokens,
        )  # fmt: skip

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Validate and tokenize; see `PromptPreparer.prepare`."""
        return self._model.prompts.prepare(inputs, parameters)

    def room(self) -> int:
        """Return how many requests may be added now; see `ClaimLimits.room`."""
        requests = list(self._collector.requests.values())
        unstarted = [request.input.parameters.n for request in requests if not request.has_begun]
        sequences = self._scheduler.waiting + self._scheduler.running + len(self._arrived)
        return self._scheduler.claims.room(sequences - len(unstarted), unstarted)

    def room_by_preemption(self, priority: int) -> int:
        """Return how many requests may be added by preempting others; see `ClaimLimits.room_by_preemption`."""
        requests = list(self._collector.requests.values())
        held = [(request.choices[0].sequence.priority, len(request.choices)) for request in requests]
        return self._scheduler.claims.room_by_preemption(priority, held)

    def cache_use(self) -> CacheMetrics:
        """See `HasCache.cache_use`."""
        return CacheMetrics(self._scheduler.pages_taken, self._scheduler.preemptions)

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Queue a request for the next step. Raises `ValueError` if the engine has a request with this ``id``."""
        if id in self._collector.requests:
            raise ValueError(f"request {id!r} was added before and has not finished")
        data: GenerateInput = prepared.data
        parameters = data.parameters
        request = GeneratingRequest(id, data, stream)
        sampling = SamplingParameters.of(parameters, len(data.ids))
        for index in range(parameters.n):
            ids: list[int] = []
            needs_text = stream or parameters.stop
            sequence = GeneratingSequence(None, len(data.ids), data.max_tokens, data.page_keys, priority)
            choice = GeneratedChoice(
                request, index, sequence, sampling,
                text=IncrementalText(self._tokenizer, ids, parameters.stop) if needs_text else None,
                ids=ids, logprobs=None if parameters.logprobs is None else [],
                constraint=None if data.grammar is None else Constraint(data.grammar),
            )  # fmt: skip
            sequence.id = choice
            request.choices.append(choice)
        request.choices[0].sequence.siblings = [choice.sequence for choice in request.choices[1:]]
        self._collector.requests[id] = request
        self._arrived.append(request)
        self._wake.set()

    def cancel(self, id: str) -> None:
        """Stop a request without an outcome; the next planned step frees its slots and pages."""
        if self._collector.drop(id):
            self._wake.set()

    def wait(self, timeout_s: float) -> None:
        """Return when a request was added, ended or canceled since the last `step`, or after ``timeout_s`` seconds."""
        self._wake.wait(timeout_s)

    def step(self) -> StepHandle | None:
        """Plan and start the next step; return None if no request is running."""
        self._handles.acquire()
        handle = None
        try:
            self._wake.clear()
            self._update_scheduler()
            plan = self._scheduler.plan_step()
            if plan is not None:
                with torch.inference_mode():
                    handle = self._runner.run(plan)
        finally:
            if handle is None:
                self._handles.release()
        return handle

    def _update_scheduler(self) -> None:
        """Pass on the requests that arrived and the sequences that ended since the last step."""
        # Read before the ended sequences are passed on: those that ended up to this step are among them.
        collected = self._collected_step
        ended = self._collector.ended
        while ended:
            self._scheduler.end(ended.popleft().sequence)
        self._scheduler.collected(collected)
        while self._arrived:
            request = self._arrived.popleft()
            if not request.is_over:
                self._scheduler.add(request.choices[0].sequence)

    def collect(self, handle: StepHandle) -> list[Delta]:
        """Wait for the step and return its output. Outcomes of a static batch come when the whole batch has ended."""
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
        self._wake.set()
        self._handles.release()
        return deltas
