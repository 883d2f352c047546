"""What every model that reads texts in one pass shares: tokens in, rows of numbers out, padded or packed."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.core.errors import ModelFailed
from scheduler.core.outcomes import Done, Failed, Outcome
from scheduler.core.planning import Batch, BatchLimits, bucket_length, plan_batches, token_rungs
from scheduler.settings import ModelSettings
from scheduler.sources import resolve_source
from scheduler.tasks import TASKS
from scheduler.tokens import load_text_limit
from worker.engines.attention import PACKED, PackedLayout
from worker.engines.base import EngineInfo, Prepared
from worker.engines.cores import cores, cut_evenly, run_on_cores
from worker.engines.graphs import PackedGraphs, PackedRun
from worker.engines.selfcheck import TOLERANCES, check_texts, relative_difference
from worker.engines.sequences import Ids, Tokens, as_rectangle, end_to_end, starts_of
from worker.engines.text import Reading, TextPreparer, TextRequest, require_room
from worker.engines.weights import load_weights, pick_device, pick_dtype, tells_texts_apart

logger = logging.getLogger(__name__)

#: Sequences that captured passes have room for where a request has several; passes of more are not captured.
CAPTURED_SEQUENCES = 256
#: What replaces ``packed`` for a model that cannot pack.
FALLBACK = "bucket"


@dataclass(frozen=True, slots=True)
class _Pending:
    """Rows on their way to the host."""

    #: (rows, width), float32, in host memory once ``span`` is over.
    rows: Tensor
    requests: Sequence[TextRequest]
    #: On CUDA, when the device began and when the rows have arrived; None where they are there already.
    span: tuple[torch.cuda.Event, torch.cuda.Event] | None


class EncoderEngine(ABC):
    """An `Engine` for encoders. A task adds how the hidden states become rows, and rows an output."""

    task: ClassVar[str]
    #: The class of ``transformers`` that loads the weights.
    auto_class: ClassVar[str]
    #: Whether its sequences are pairs of texts, several a request.
    reads_pairs: ClassVar[bool] = False
    #: Whether there is a row for each token, and not one for each sequence; offsets come with the tokens then.
    rows_per_token: ClassVar[bool] = False

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Load the model and, for ``packed``, check that it packs. Raises `ModelUnusable`."""
        self.busy_s = 0.0
        self._folder = resolve_source(settings.source)
        limit = load_text_limit(settings.source, settings.max_input_tokens)
        self._device = pick_device()
        dtype = pick_dtype(settings.dtype, self._device)
        require_room(limit, ("", "") if self.reads_pairs else "")
        self._weights = load_weights(self._folder, self.auto_class, dtype, self._device)
        self._max_tokens = limit.max_input_tokens
        self._max_batch_tokens = settings.max_batch_tokens
        types = self.reads_pairs and tells_texts_apart(self._weights.module, self._folder)
        self._texts = TextPreparer(TASKS[self.task], limit, self._folder, Reading(types, self.rows_per_token))
        self._set_up()
        texts = check_texts(limit, self._weights.pad_id, types)
        alone = self._one_by_one(texts)
        #: Numbers in a row.
        self._width = alone.shape[1]
        in_full = alone if dtype == torch.float32 else self._in_float32(texts)
        expected = alone if in_full is None else in_full
        # Where rounding alone does more than usual, packing may do as much again.
        tolerance = max(TOLERANCES[dtype], 2 * relative_difference(alone, expected))
        note = self._reason_not_to_pack(texts, expected, tolerance) if settings.strategy == "packed" else None
        if note:
            logger.warning("model %s: strategy packed is replaced by %s: %s", name, FALLBACK, note)
        self._packs = settings.strategy == "packed" and note is None
        self._graphs: PackedGraphs | None = None
        if self._packs and self._device.type == "cuda" and dtype != torch.float32:
            self._graphs = self._capture(name, settings, texts, expected, tolerance)
        with torch.inference_mode():
            served = self._run_packed(texts) if self._packs else alone
        self.info = EngineInfo(
            model=name,
            task=self.task,
            strategy=FALLBACK if note else settings.strategy,
            strategy_note=note,
            device=self._device.type,
            dtype=str(dtype).removeprefix("torch."),
            max_input_tokens=limit.max_input_tokens,
            is_captured=self._graphs is not None,
            relative_error=None if in_full is None else relative_difference(served, in_full),
        )

    @abstractmethod
    def _set_up(self) -> None:
        """Read what the task needs beside the weights. Raises `ModelUnusable`."""

    @abstractmethod
    def _padded_rows(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """(sequences, length) ids -> (sequences, width) rows, or (sequences, length, width) where there is a row for
        each token; no mask means no padding, and no types that the model is not told them.
        """

    @abstractmethod
    def _packed_rows(
        self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """(1, tokens) ids -> (sequences, width) rows, or (tokens, width) where there is a row for each token."""

    @abstractmethod
    def _outputs(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[dict[str, Any]]:
        """(rows, width) of all ``requests``, in order -> the output object of each; see `_split_rows`."""

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check and tokenise; see `TextPreparer.prepare`."""
        return self._texts.prepare(inputs, parameters)

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> _Pending:
        """Start one pass; does not wait for a CUDA device."""
        requests = [one.data for one in prepared]
        texts = [text for request in requests for text in request.sequences]
        began_s = time.monotonic()
        began = self._mark()
        with torch.inference_mode():
            first, *others = self._in_parts(texts, batch)
            rows = self._run(*first, began)
            if others:
                # What a captured pass gave is good until the next one.
                copies = [rows.clone(), *(self._run(*part).clone() for part in others)]
                rows = torch.cat(copies)
            rows = rows.float()
            if began is None:
                self.busy_s += time.monotonic() - began_s
                return _Pending(rows, requests, None)
            # Into pinned memory, with events of its own: collect waits for this pass, not for those after it.
            host = rows.to("cpu", non_blocking=True)
            arrived = self._mark()
            assert arrived is not None
            return _Pending(host, requests, (began, arrived))

    def _in_parts(self, texts: Sequence[Tokens], batch: Batch) -> list[tuple[Sequence[Tokens], Batch]]:
        """The pass itself; a request whose sequences are more than a pass may hold is cut into several."""
        if batch.tokens <= self._max_batch_tokens or len(texts) == 1:
            return [(texts, batch)]
        rungs = token_rungs(self._max_batch_tokens) if self._graphs is not None else ()
        limits = BatchLimits(len(texts), self._max_batch_tokens, static_length=batch.padded_length or 1, rungs=rungs)
        # Of the two kinds of pass, those that keep the order.
        strategy = "packed" if batch.padded_length is None else "static"
        plan = plan_batches(strategy, [len(text) for text in texts], limits)
        return [([texts[index] for index in part.indices], part) for part in plan]

    def _run(self, texts: Sequence[Tokens], batch: Batch, began: torch.cuda.Event | None = None) -> Tensor:
        if batch.padded_length is not None or not self._packs:
            return self._run_padded(texts, batch.padded_length or 0)
        if self._graphs is not None and self._graphs.has(batch.tokens, len(texts)):
            return self._replay(self._graphs, batch.tokens, texts, began)
        return self._run_packed(texts)

    def _mark(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def collect(self, handle: _Pending) -> list[Outcome]:
        """Outputs in the order of the pass; a row with NaN or infinity is a `Failed` of that text alone."""
        if handle.span is not None:
            began, arrived = handle.span
            arrived.synchronize()
            self.busy_s += began.elapsed_time(arrived) / 1e3
        rows, requests = handle.rows.numpy(), handle.requests
        finite = np.isfinite(rows).all(axis=1)
        if len(rows) > len(requests):
            finite = np.logical_and.reduceat(finite, starts_of(self._row_counts(requests)))
        return [
            Done(output) if sound else Failed(ModelFailed("the model answered with NaN or infinity"))
            for output, sound in zip(self._outputs(rows, requests), finite.tolist(), strict=True)
        ]

    def _split_rows(self, rows: NDArray[np.float32], requests: Sequence[TextRequest]) -> list[NDArray[np.float32]]:
        """The rows of each request."""
        return np.split(rows, starts_of(self._row_counts(requests))[1:])

    def _row_counts(self, requests: Sequence[TextRequest]) -> list[int]:
        if self.rows_per_token:
            return [sum(map(len, request.sequences)) for request in requests]
        return [len(request.sequences) for request in requests]

    def _run_padded(self, texts: Sequence[Tokens], wished_length: int) -> Tensor:
        # A rectangle wider than the position table would fail, one narrower than its longest text cannot be.
        length = max(min(wished_length, self._max_tokens), *(len(text) for text in texts), 1)
        # Weights are shared: another entry may have left the packed attention in place.
        self._weights.module.config._attn_implementation = self._weights.padded_attention
        return self._in_pieces(texts, [length] * len(texts), lambda piece: self._run_rectangle(piece, length))

    def _run_rectangle(self, texts: Sequence[Tokens], length: int) -> Tensor:
        ids, mask, types = as_rectangle(texts, length, self._weights.pad_id)
        told = None if types is None else self._on_device(types)
        rows = self._padded_rows(self._on_device(ids), None if mask.all() else self._on_device(mask), told)
        # By number and not by mask, whose count the device would have to be asked for.
        return rows.flatten(0, 1)[self._on_device(np.flatnonzero(mask))] if self.rows_per_token else rows

    def _run_packed(self, texts: Sequence[Tokens]) -> Tensor:
        self._weights.module.config._attn_implementation = PACKED
        return self._in_pieces(texts, [len(text) for text in texts], self._run_end_to_end)

    def _in_pieces(
        self, texts: Sequence[Tokens], tokens: Sequence[int], run: Callable[[Sequence[Tokens]], Tensor]
    ) -> Tensor:
        """``run`` over all of ``texts``: at once on a device, a piece a thread on the CPU."""
        if self._device.type != "cpu":
            return run(texts)
        return torch.cat(run_on_cores(run, [texts[part] for part in cut_evenly(tokens, cores())]))

    def _run_end_to_end(self, texts: Sequence[Tokens]) -> Tensor:
        layout = PackedLayout.of([len(text) for text in texts], self._device)
        channels = end_to_end(texts, self._weights.position_pad_id)
        ids, positions, *types = (self._on_device(channel[None]) for channel in channels)
        rows = self._packed_rows(ids, positions, layout, *types)
        if not layout.uses:
            raise NotImplementedError(f"{type(self._weights.module).__name__} has an attention of its own")
        return rows

    def _on_device(self, array: Ids) -> Tensor:
        tensor = torch.from_numpy(array)
        # Copies from pageable memory make the host wait.
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    def _replay(
        self, graphs: PackedGraphs, rung: int, texts: Sequence[Tokens], began: torch.cuda.Event | None = None
    ) -> Tensor:
        lengths, channels = [len(text) for text in texts], end_to_end(texts, self._weights.position_pad_id)
        return graphs.replay(rung, channels, lengths, began)[: sum(lengths) if self.rows_per_token else len(texts)]

    def _capture(
        self, name: str, settings: ModelSettings, texts: Sequence[Tokens], expected: Tensor, tolerance: float
    ) -> PackedGraphs | None:
        """Graphs of this model's packed passes, compiled where that works; None where they cannot be had."""
        self._weights.module.config._attn_implementation = PACKED
        rungs = token_rungs(settings.max_batch_tokens)
        # Of a small budget, only some of the check's texts fit a pass.
        fitting = [text for text in texts if len(text) <= rungs[-1]][: settings.max_batch_size]
        sequences = max(settings.max_batch_size, CAPTURED_SEQUENCES if self.reads_pairs else 0)
        channels = 2 if texts[0].types is None else 3
        ways: dict[str, PackedRun] = {"captured": self._packed_rows}
        if settings.compile:
            ways = {"compiled": torch.compile(self._packed_rows, dynamic=True)} | ways
        for way, run in ways.items():
            try:
                with torch.inference_mode():
                    graphs = PackedGraphs(run, rungs, sequences, self._max_tokens, channels, self._device)
                    some = [self._replay(graphs, bucket_length(len(text), rungs), [text]).clone() for text in fitting]
                rows = torch.cat(some)
                difference = relative_difference(rows, expected[: len(rows)])
            except Exception as error:  # Whatever is raised here, it can still serve without.
                logger.warning("model %s: its passes cannot be %s: %s: %s", name, way, type(error).__name__, error)
                continue
            if difference <= tolerance:
                return graphs
            logger.warning("model %s: %s passes differ by %.1e, more than rounding", name, way, difference)
        return None

    def _one_by_one(self, texts: Sequence[Tokens]) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._run_padded([text], len(text)) for text in texts]).float()

    def _in_float32(self, texts: Sequence[Tokens]) -> Tensor | None:
        """Rows of ``texts`` one by one, by the same files read in full precision; None where they do not fit beside."""
        served = self._weights
        try:
            self._weights = load_weights.__wrapped__(self._folder, self.auto_class, torch.float32, self._device)
            self._set_up()
            return self._one_by_one(texts)
        except (torch.OutOfMemoryError, MemoryError):
            return None
        finally:
            self._weights = served
            self._set_up()

    def _reason_not_to_pack(self, texts: Sequence[Tokens], expected: Tensor, tolerance: float) -> str | None:
        """Run ``texts`` packed; say why the model must not pack, or None where it may."""
        try:
            with torch.inference_mode():
                difference = relative_difference(self._run_packed(texts), expected)
        except Exception as error:  # Whatever a model raises here, it can still serve padded.
            return f"the packed pass raised {type(error).__name__}: {error}"
        if difference <= tolerance:
            return None
        return f"packed and one by one differ by {difference:.1e}, more than rounding ({tolerance:.0e})"


def told_types(token_type_ids: Tensor | None) -> dict[str, Tensor]:
    """The argument of models that are told which text of a pair each token is of; none for those that are not."""
    return {} if token_type_ids is None else {"token_type_ids": token_type_ids}
