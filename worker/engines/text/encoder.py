"""The engine of all text tasks that answer in one forward pass: prepare, forward, collect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windrow.errors import InvalidInput, ModelFailed
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.base import require_request_size
from windrow.worker.engines.base import BatchRaised, Prepared
from windrow.worker.engines.device.cores import StartedBatch, start_on_cores
from windrow.worker.engines.device.token_batches import start_offsets
from windrow.worker.engines.text.encoder_loading import load_encoder
from windrow.worker.engines.text.tokenization import TextRequest


@dataclass(frozen=True, slots=True)
class _BatchOnDevice:
    """A batch on a CUDA device; its vectors are being copied to the host."""

    #: (vectors, width), float32, in host memory once the second event of ``events`` has happened.
    vectors: Tensor
    requests: Sequence[TextRequest]
    #: The start of the work on the device, and the end of the copy.
    events: tuple[torch.cuda.Event, torch.cuda.Event]


@dataclass(frozen=True, slots=True)
class _BatchOnCores:
    """A batch on the cores of a CPU."""

    started: StartedBatch
    requests: Sequence[TextRequest]


class EncoderEngine:
    """An `Engine` for encoders; `windrow.worker.engines.text.encoder_loading.HEADS` has the part of each task."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Load the model and check what its settings ask for. Raises `ModelUnusable`."""
        loaded = load_encoder(name, settings)
        self.info = loaded.info
        self.busy_s = 0.0
        #: End of the last collected batch on the CPU, by `time.monotonic`.
        self._busy_until_s = 0.0
        self._texts = loaded.texts
        self._runner = loaded.runner
        self._forward = loaded.runner.forward
        self._head = self._forward.head
        self._max_batch_tokens = settings.max_batch_tokens
        self._checks: list[Callable[[Prepared], None]] = []
        if TASKS[settings.task].reads_pairs:
            self._checks.append(self._require_request_size)
        if check := self._head.request_check(loaded.width):
            self._checks.append(check)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Validate and tokenize; see `TextPreparer.prepare`. Requests that this model cannot answer are `Failed`."""
        prepared = self._texts.prepare(inputs, parameters)
        return [self._checked(item) for item in prepared] if self._checks else prepared

    def _checked(self, item: Prepared | Failed) -> Prepared | Failed:
        if isinstance(item, Failed):
            return item
        try:
            for check in self._checks:
                check(item)
        except InvalidInput as error:
            return Failed(error)
        return item

    def _require_request_size(self, prepared: Prepared) -> None:
        tokens, sequences, longest = prepared.size
        form = self._runner.form
        if form.pads and not form.packs:
            tokens = sequences * (self.info.max_input_tokens if form.strategy == "static" else longest)
        require_request_size(sequences, tokens, self._max_batch_tokens, "input")

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> _BatchOnDevice | _BatchOnCores:
        """Start one batch; does not wait for a CUDA device, and on a CPU only until one core is idle."""
        requests = [request.data for request in prepared]
        sequences = [sequence for request in requests for sequence in request.sequences]
        if self._forward.device.type == "cpu":
            return _BatchOnCores(start_on_cores(partial(self._runner.parts_on_cpu, sequences, batch)), requests)
        began = _record_event()
        with torch.inference_mode():
            vectors = self._runner.run_on_device(sequences, batch, began)
            # Copied to pinned memory and timed by events, so that collect waits for this batch but not for later ones.
            on_host = vectors.float().to("cpu", non_blocking=True)
            return _BatchOnDevice(on_host, requests, (began, _record_event()))

    def collect(self, handle: _BatchOnDevice | _BatchOnCores) -> list[Outcome]:
        """Return the outcomes of a batch, in order; only requests with NaN or infinity in their vectors are `Failed`.

        Raises `BatchRaised` if the model raised on a CPU core.
        """
        arrived = self._wait_cores(handle.started) if isinstance(handle, _BatchOnCores) else self._wait_device(handle)
        vectors, requests = arrived.numpy(), handle.requests
        finite = np.isfinite(vectors).all(axis=1)
        if len(vectors) > len(requests):
            finite = np.logical_and.reduceat(finite, start_offsets(self._head.vector_counts(requests)))
        return [
            Done(output) if is_finite else Failed(ModelFailed("the model answered with NaN or infinity"))
            for output, is_finite in zip(self._head.outputs(vectors, requests), finite.tolist(), strict=True)
        ]

    def _wait_device(self, batch: _BatchOnDevice) -> Tensor:
        began, arrived = batch.events
        arrived.synchronize()
        self.busy_s += began.elapsed_time(arrived) / 1e3
        return batch.vectors

    def _wait_cores(self, started: StartedBatch) -> Tensor:
        try:
            vectors = started.result()
        except Exception as error:
            raise BatchRaised(error) from error
        # Batches overlap, because the next one starts as soon as a core is idle; shared time counts once.
        self.busy_s += max(0.0, started.ended_s - max(started.began_s, self._busy_until_s))
        self._busy_until_s = started.ended_s
        return vectors.float()


def _record_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
