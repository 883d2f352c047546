"""What every model that reads texts in one pass shares: tokens in, rows of numbers out, padded or packed."""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windrow.errors import InvalidInput, ModelFailed, ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches, token_rungs
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.base import require_request_size
from windrow.worker.engines.base import BatchRaised, EngineInfo, Prepared
from windrow.worker.engines.device.captured_sizes import captured_padded_sizes, captured_sequences
from windrow.worker.engines.device.capturing import capture_packed, capture_rectangles
from windrow.worker.engines.device.cores import Piece, Started, start_on_cores
from windrow.worker.engines.device.int8 import load_int8, reason_against_int8
from windrow.worker.engines.device.packed_graphs import PackedGraphs, PackedRun
from windrow.worker.engines.device.padded_graphs import PaddedRun, RectangleGraphs
from windrow.worker.engines.device.weights import (
    Weights,
    distinguishes_texts,
    load_weights,
    pick_device,
    pick_dtype,
    require_positions,
)
from windrow.worker.engines.text.encoder_run import EncoderRuns
from windrow.worker.engines.text.self_check import TOLERANCES, Reference, check_texts, relative_difference
from windrow.worker.engines.text.sequences import Tokens, starts_of
from windrow.worker.engines.text.tokenization import TextPreparer, TextRequest, TokenizedText, require_room

logger = logging.getLogger(__name__)

#: What replaces ``packed`` for a model that cannot pack.
FALLBACK = "bucket"
#: What replaces a strategy that pads for a model that padding answers differently.
UNPADDED = "none"
#: How often int8 and float32 take turns when they are compared.
SPEED_TURNS = 3


@dataclass(frozen=True, slots=True)
class _Pending:
    """Rows of a CUDA device, on their way to the host."""

    #: (rows, width), float32, in host memory once ``span`` is over.
    rows: Tensor
    requests: Sequence[TextRequest]
    #: When the device began, and when the rows have arrived.
    span: tuple[torch.cuda.Event, torch.cuda.Event]


@dataclass(frozen=True, slots=True)
class _OnCores:
    """A pass on the cores of a CPU."""

    started: Started
    requests: Sequence[TextRequest]


class EncoderEngine(EncoderRuns):
    """An `Engine` for encoders. A task adds how the hidden states become rows, and rows an output."""

    task: ClassVar[str]
    #: The class of ``transformers`` that loads the weights.
    auto_class: ClassVar[str]

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Load the model, and check what its settings ask for. Raises `ModelUnusable`."""
        self._reads_pairs = TASKS[self.task].reads_pairs
        self.busy_s = 0.0
        #: When the last pass that was collected had ended, `time.monotonic`.
        self._busy_until_s = 0.0
        self._folder = resolve_source(settings.source)
        limit = load_text_limit(settings.source, settings.max_input_tokens)
        self._device = pick_device()
        dtype = pick_dtype(settings.dtype, self._device)
        require_room(limit, ("", "") if self._reads_pairs else "")
        self._max_tokens = limit.max_input_tokens
        self._max_batch_tokens = settings.max_batch_tokens
        self._packs = False
        self._pads = True
        self._packed_graphs: PackedGraphs | None = None
        self._rectangles: RectangleGraphs | None = None
        #: Length -> numbers of rows that were captured.
        self._row_rungs: dict[int, tuple[int, ...]] = {}
        self._use(self._load(dtype))
        require_positions(self._weights, self._max_tokens)
        types = self._reads_pairs and distinguishes_texts(self._weights.module, self._folder)
        self._texts = TextPreparer(TASKS[self.task], limit, self._folder, TokenizedText(types, self.rows_per_token))
        texts = check_texts(limit, self._weights.pad_id, types)
        dtype_note = self._reason_not_to_round(texts) if dtype == torch.int8 else None
        if dtype_note:
            logger.warning("model %s: dtype int8 is replaced by float32: %s", name, dtype_note)
            dtype = torch.float32
            load_int8.cache_clear()
            self._use(self._load(dtype))
        alone = self._one_by_one(texts)
        if not torch.isfinite(alone).all(dim=1).any():
            raise ModelUnusable(f"{self._folder}: its answers are NaN or infinite; are its weights damaged?")
        #: Numbers in a row.
        self._width = alone.shape[1]
        in_full = alone if dtype == torch.float32 else self._in_float32(texts)
        expected = alone if in_full is None else in_full
        # Where rounding alone does more than usual, other ways to compute the same may do more as well.
        tolerance = max(TOLERANCES[dtype], 2 * relative_difference(alone, expected))
        rows = expected.split([len(text) if self.rows_per_token else 1 for text in texts])
        reference = Reference(name, texts, rows, tolerance)
        strategy, note = self._strategy_in_effect(settings.strategy, reference)
        if note:
            logger.warning("model %s: strategy %s is replaced by %s: %s", name, settings.strategy, strategy, note)
        if self._device.type == "cuda":
            self._capture(strategy, settings, reference)
        served = alone if strategy == UNPADDED else self._together(texts)
        self.info = EngineInfo(
            model=name,
            task=self.task,
            strategy=strategy,
            strategy_note=note,
            device=self._device.type,
            dtype=str(dtype).removeprefix("torch."),
            max_input_tokens=limit.max_input_tokens,
            is_captured=self._packed_graphs is not None or self._rectangles is not None,
            relative_error=None if in_full is None else relative_difference(served, in_full),
            dtype_note=dtype_note,
        )

    @abstractmethod
    def _set_up(self) -> None:
        """Read what the task needs beside the weights. Raises `ModelUnusable`."""

    @abstractmethod
    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """(rows, width) of all ``requests``, in order -> the output object of each; see `_split_rows`."""

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check and tokenise; see `TextPreparer.prepare`. More pairs than one request may bring are a `Failed` too."""
        prepared = self._texts.prepare(inputs, parameters)
        return [self._within_passes(one) for one in prepared] if self._reads_pairs else prepared

    def _within_passes(self, one: Prepared | Failed) -> Prepared | Failed:
        if isinstance(one, Failed):
            return one
        tokens, sequences, longest = one.size
        if self._pads and not self._packs:
            tokens = sequences * (self._max_tokens if self.info.strategy == "static" else longest)
        try:
            require_request_size(sequences, tokens, self._max_batch_tokens, "input")
        except InvalidInput as error:
            return Failed(error)
        return one

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> _Pending | _OnCores:
        """Start one pass; does not wait for a CUDA device, nor for more than one core of a CPU."""
        requests = [one.data for one in prepared]
        texts = [text for request in requests for text in request.sequences]
        if self._device.type == "cpu":
            return _OnCores(start_on_cores(partial(self._cut_pass, texts, batch)), requests)
        began = self._mark()
        with torch.inference_mode():
            first, *others = self._in_parts(texts, batch)
            rows = self._run(*first, began)
            if others:
                # What a captured pass gave is good until the next one.
                copies = [rows.clone(), *(self._run(*part).clone() for part in others)]
                rows = torch.cat(copies)
            # Into pinned memory, with events of its own: collect waits for this pass, not for those after it.
            host = rows.float().to("cpu", non_blocking=True)
            return _Pending(host, requests, (began, self._mark()))

    def _cut_pass(self, texts: Sequence[Tokens], batch: Batch) -> list[Piece]:
        return [piece for part in self._in_parts(texts, batch) for piece in self._cut_part(*part)]

    def _cut_part(self, texts: Sequence[Tokens], batch: Batch) -> list[Piece]:
        if batch.padded_length is None and self._packs:
            return self._cut_packed(texts)
        if not self._pads:
            return [piece for text in texts for piece in self._cut_padded([text], len(text))]
        return self._cut_padded(texts, batch.padded_length or 0)

    def _in_parts(self, texts: Sequence[Tokens], batch: Batch) -> list[tuple[Sequence[Tokens], Batch]]:
        """The pass itself; a request whose sequences are more than a pass may hold is cut into several."""
        if batch.tokens <= self._max_batch_tokens or len(texts) == 1:
            return [(texts, batch)]
        rungs = token_rungs(self._max_batch_tokens) if self._packed_graphs is not None else ()
        # Of the two kinds of pass, those that keep the order: all are of one bucket.
        strategy, length = ("packed", 1) if batch.padded_length is None else ("bucket", batch.padded_length)
        row_rungs = (self._row_rungs.get(length, ()),)
        limits = BatchLimits(len(texts), self._max_batch_tokens, (length,), rungs=rungs, row_rungs=row_rungs)
        plan = plan_batches(strategy, [len(text) for text in texts], limits)
        return [([texts[index] for index in part.indices], part) for part in plan]

    def _run(self, texts: Sequence[Tokens], batch: Batch, began: torch.cuda.Event | None = None) -> Tensor:
        length, tokens = batch.padded_length, batch.tokens
        if length is None and self._packs:
            graphs = self._packed_graphs
            if graphs is not None and graphs.has(tokens, len(texts)):
                return self._replay_packed(graphs, tokens, texts, began)
        elif self._pads and self._rectangles is not None and length and all(len(text) <= length for text in texts):
            rows = tokens // length
            if len(texts) <= rows and self._rectangles.has(rows, length):
                return self._replay_rectangle(self._rectangles, rows, length, texts, began)
        return torch.cat([piece() for piece in self._cut_part(texts, batch)])

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def collect(self, handle: _Pending | _OnCores) -> list[Outcome]:
        """Outputs in the order of the pass; a row with NaN or infinity is a `Failed` of that text alone."""
        arrived = self._of_cores(handle.started) if isinstance(handle, _OnCores) else self._of_device(handle)
        rows, requests = arrived.numpy(), handle.requests
        finite = np.isfinite(rows).all(axis=1)
        if len(rows) > len(requests):
            finite = np.logical_and.reduceat(finite, starts_of(self._row_counts(requests)))
        return [
            Done(output) if sound else Failed(ModelFailed("the model answered with NaN or infinity"))
            for output, sound in zip(self._outputs(rows, requests), finite.tolist(), strict=True)
        ]

    def _of_device(self, pending: _Pending) -> Tensor:
        began, arrived = pending.span
        arrived.synchronize()
        self.busy_s += began.elapsed_time(arrived) / 1e3
        return pending.rows

    def _of_cores(self, started: Started) -> Tensor:
        try:
            rows = started.rows()
        except Exception as error:
            raise BatchRaised(error) from error
        # Passes overlap where a core is free early.
        self.busy_s += max(0.0, started.ended_s - max(started.began_s, self._busy_until_s))
        self._busy_until_s = started.ended_s
        return rows.float()

    def _split_rows(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[NDArray[np.float32]]:
        """The rows of each request."""
        return np.split(rows, starts_of(self._row_counts(requests))[1:])

    def _row_counts(self, requests: Sequence[TextRequest]) -> list[int]:
        if self.rows_per_token:
            return [sum(map(len, request.sequences)) for request in requests]
        return [len(request.sequences) for request in requests]

    def _load(self, dtype: torch.dtype) -> Weights:
        if dtype == torch.int8:
            return load_int8(self._folder, self.auto_class)
        return load_weights(self._folder, self.auto_class, dtype, self._device)

    def _use(self, weights: Weights) -> None:
        self._weights = weights
        self._set_up()

    def _capture(self, strategy: str, settings: ModelSettings, reference: Reference) -> None:
        """Capture the passes of ``strategy`` where they come in fixed sizes, and where it works."""
        types = int(reference.texts[0].types is not None)
        if strategy == "packed" and self._weights.module.dtype != torch.float32:  # the kernel takes halves only

            def packed(run: PackedRun, rungs: Sequence[int]) -> PackedGraphs:
                return PackedGraphs(run, rungs, captured_sequences(settings), self._max_tokens, 2 + types, self._device)

            self._attend_packed()
            self._packed_graphs = capture_packed(settings, self._packed_rows, packed, self._replay_packed, reference)
        elif strategy == "bucket":

            def padded(run: PaddedRun, shapes: Sequence[tuple[int, int]]) -> RectangleGraphs:
                return RectangleGraphs(run, shapes, 1 + types, self._weights.pad_id, self._device)

            self._attend_padded()
            self._rectangles = capture_rectangles(
                settings, self._max_tokens, self._padded_rows, padded, self._replay_rectangle, reference
            )
            if self._rectangles is not None:
                self._row_rungs = captured_padded_sizes(settings, self._max_tokens)

    def _in_float32(self, texts: Sequence[Tokens]) -> Tensor | None:
        """Rows of ``texts`` one by one, by the same files read in full precision; None where they do not fit beside."""
        served = self._weights
        try:
            self._use(self._full_precision())
            return self._one_by_one(texts)
        except (torch.OutOfMemoryError, MemoryError):
            return None
        finally:
            self._use(served)

    def _full_precision(self) -> Weights:
        # Past the cache: they are needed for a moment.
        return load_weights.__wrapped__(self._folder, self.auto_class, torch.float32, self._device)

    def _reason_not_to_round(self, texts: Sequence[Tokens]) -> str | None:
        """Run ``texts`` in int8 and in float32, by turns; say why int8 must not serve, or None where it may."""
        rows: dict[str, Tensor] = {}
        fastest_s = {"float32": math.inf, "int8": math.inf}
        try:
            ways = {"float32": self._full_precision(), "int8": self._weights}
            for _ in range(SPEED_TURNS):
                for way, weights in ways.items():
                    self._use(weights)
                    # Of this thread, in which single texts run: whatever else the machine does is not the model's.
                    began_s = time.thread_time()
                    rows[way] = self._one_by_one(texts)
                    fastest_s[way] = min(fastest_s[way], time.thread_time() - began_s)
        except Exception as error:  # Whatever a model raises here, it can still serve in float32.
            return f"the int8 pass raised {type(error).__name__}: {error}"
        difference = relative_difference(rows["int8"], rows["float32"])
        return reason_against_int8(difference, fastest_s["int8"], fastest_s["float32"])

    def _strategy_in_effect(self, wished: str, reference: Reference) -> tuple[str, str | None]:
        """The strategy that serves, and why it is not the one ``wished`` for; packing gives way to padding, and padding
        to one sequence at a time.
        """
        reasons: list[str] = []
        if wished == "packed":
            self._packs = True
            reason = self._reason_against_together(reference)
            if reason is None:
                return wished, None
            self._packs = False
            reasons.append(reason)
        strategy = FALLBACK if reasons else wished
        if strategy == UNPADDED and not self._reads_pairs:  # the pairs of one request are padded in every strategy
            return strategy, None
        reason = self._reason_against_together(reference)
        if reason is None:
            return strategy, "; ".join(reasons) or None
        self._pads = False
        if strategy == UNPADDED:
            return strategy, None
        return UNPADDED, "; ".join([*reasons, f"padding changes the answers of this model: {reason}"])

    def _reason_against_together(self, reference: Reference) -> str | None:
        """Run the texts together; say why the model must not be served so, or None where it may."""
        way = "packed" if self._packs else "padded"
        try:
            difference = reference.difference([self._together(reference.texts)])
        except Exception as error:  # Whatever a model raises here, it can still serve another way.
            return f"the {way} pass raised {type(error).__name__}: {error}"
        if difference <= reference.tolerance:
            return None
        return f"{way} and one by one differ by {difference:.1e}, more than rounding ({reference.tolerance:.0e})"

    def _together(self, texts: Sequence[Tokens]) -> Tensor:
        """Rows of ``texts`` in one pass, not a captured one."""
        with torch.inference_mode():
            return self._run_packed(texts) if self._packs else self._run_padded(texts, 0)


def describe_heads(token_type_ids: Tensor | None) -> dict[str, Tensor]:
    """The argument of models that are told which text of a pair each token is of; none for those that are not."""
    return {} if token_type_ids is None else {"token_type_ids": token_type_ids}
