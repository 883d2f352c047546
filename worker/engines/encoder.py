"""What every model that reads a text in one pass shares: tokens in, one row of numbers a text out, padded or packed."""

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
from scheduler.core.planning import Batch, bucket_length, token_rungs
from scheduler.settings import ModelSettings
from scheduler.sources import resolve_source
from scheduler.tokens import load_text_limit
from worker.engines.attention import PACKED, PackedLayout
from worker.engines.base import EngineInfo, Prepared
from worker.engines.cores import cores, cut_evenly, run_on_cores
from worker.engines.graphs import PackedGraphs, PackedRun
from worker.engines.selfcheck import TOLERANCES, check_texts, relative_difference
from worker.engines.text import TextPreparer
from worker.engines.weights import load_weights, pick_device, pick_dtype

logger = logging.getLogger(__name__)

Ids = NDArray[np.int64]

#: What replaces ``packed`` for a model that cannot pack.
FALLBACK = "bucket"


@dataclass(frozen=True, slots=True)
class _Pending:
    """Rows on their way to the host."""

    #: (sequences, width), float32, in host memory once ``arrived`` is over.
    rows: Tensor
    #: On CUDA, when the device began and when the rows have arrived; None where they are there already.
    span: tuple[torch.cuda.Event, torch.cuda.Event] | None


class EncoderEngine(ABC):
    """An `Engine` for encoders. A task adds how the hidden states become a row, and a row an output."""

    task: ClassVar[str]
    #: The class of ``transformers`` that loads the weights.
    auto_class: ClassVar[str]

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Load the model and, for ``packed``, check that it packs. Raises `ModelUnusable`."""
        self.busy_s = 0.0
        self._folder = resolve_source(settings.source)
        limit = load_text_limit(settings.source, settings.max_input_tokens)
        self._device = pick_device()
        dtype = pick_dtype(settings.dtype, self._device)
        self._texts = TextPreparer(limit, self._folder)
        self._weights = load_weights(self._folder, self.auto_class, dtype, self._device)
        self._max_tokens = limit.max_input_tokens
        self._set_up()
        texts = check_texts(limit, self._weights.pad_id)
        alone = self._one_by_one(texts)
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
    def _padded_rows(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(sequences, length) ids -> (sequences, width) rows; no mask means no padding."""

    @abstractmethod
    def _packed_rows(self, input_ids: Tensor, position_ids: Tensor, layout: PackedLayout) -> Tensor:
        """(1, tokens) ids -> (sequences, width) rows."""

    @abstractmethod
    def _outputs(self, rows: NDArray[np.float32]) -> list[dict[str, Any]]:
        """(sequences, width) -> the output object of the task for each text."""

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Check and tokenise; see `TextPreparer.prepare`."""
        return self._texts.prepare(inputs, parameters)

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> _Pending:
        """Start one pass; does not wait for a CUDA device."""
        texts = [one.data for one in prepared]
        began_s = time.monotonic()
        began = self._mark()
        with torch.inference_mode():
            if batch.padded_length is None and self._packs:
                if self._graphs is not None and self._graphs.has(batch.tokens, len(texts)):
                    rows = self._replay(self._graphs, batch.tokens, texts, began)
                else:
                    rows = self._run_packed(texts)
            else:
                rows = self._run_padded(texts, batch.padded_length or 0)
            if began is None:
                self.busy_s += time.monotonic() - began_s
                return _Pending(rows.float(), None)
            # Into pinned memory, with events of its own: collect waits for this pass, not for those after it.
            host = rows.float().to("cpu", non_blocking=True)
            arrived = self._mark()
            assert arrived is not None
            return _Pending(host, (began, arrived))

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
        rows = handle.rows.numpy()
        finite = np.isfinite(rows).all(axis=1)
        return [
            Done(output) if sound else Failed(ModelFailed("the model answered with NaN or infinity"))
            for output, sound in zip(self._outputs(rows), finite.tolist(), strict=True)
        ]

    def _run_padded(self, texts: Sequence[Ids], wished_length: int) -> Tensor:
        # A rectangle wider than the position table would fail, one narrower than its longest text cannot be.
        length = max(min(wished_length, self._max_tokens), *(len(text) for text in texts), 1)
        # Weights are shared: another entry may have left the packed attention in place.
        self._weights.module.config._attn_implementation = self._weights.padded_attention
        return self._in_pieces(texts, [length] * len(texts), lambda piece: self._run_rectangle(piece, length))

    def _run_rectangle(self, texts: Sequence[Ids], length: int) -> Tensor:
        ids = np.full((len(texts), length), self._weights.pad_id, dtype=np.int64)
        mask = np.zeros((len(texts), length), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return self._padded_rows(self._on_device(ids), None if mask.all() else self._on_device(mask))

    def _run_packed(self, texts: Sequence[Ids]) -> Tensor:
        self._weights.module.config._attn_implementation = PACKED
        return self._in_pieces(texts, [len(text) for text in texts], self._run_end_to_end)

    def _in_pieces(self, texts: Sequence[Ids], tokens: Sequence[int], run: Callable[[Sequence[Ids]], Tensor]) -> Tensor:
        """``run`` over all of ``texts``: at once on a device, a piece a thread on the CPU."""
        if self._device.type != "cpu":
            return run(texts)
        return torch.cat(run_on_cores(run, [texts[part] for part in cut_evenly(tokens, cores())]))

    def _run_end_to_end(self, texts: Sequence[Ids]) -> Tensor:
        lengths = [len(text) for text in texts]
        ids = np.concatenate(texts)
        layout = PackedLayout.of(lengths, self._device)
        positions = restarting_positions(ids, lengths, self._weights.position_pad_id)
        rows = self._packed_rows(self._on_device(ids[None]), self._on_device(positions[None]), layout)
        if not layout.uses:
            raise NotImplementedError(f"{type(self._weights.module).__name__} has an attention of its own")
        return rows

    def _on_device(self, array: Ids) -> Tensor:
        tensor = torch.from_numpy(array)
        # Copies from pageable memory make the host wait.
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    def _replay(
        self, graphs: PackedGraphs, rung: int, texts: Sequence[Ids], began: torch.cuda.Event | None = None
    ) -> Tensor:
        lengths, ids = [len(text) for text in texts], np.concatenate(texts)
        positions = restarting_positions(ids, lengths, self._weights.position_pad_id)
        return graphs.replay(rung, ids, positions, lengths, began)

    def _capture(
        self, name: str, settings: ModelSettings, texts: Sequence[Ids], expected: Tensor, tolerance: float
    ) -> PackedGraphs | None:
        """Graphs of this model's packed passes, compiled where that works; None where they cannot be had."""
        self._weights.module.config._attn_implementation = PACKED
        rungs = token_rungs(settings.max_batch_tokens)
        # Of a small budget, only some of the check's texts fit a pass.
        fitting = [text for text in texts if len(text) <= rungs[-1]][: settings.max_batch_size]
        ways: dict[str, PackedRun] = {"captured": self._packed_rows}
        if settings.compile:
            ways = {"compiled": torch.compile(self._packed_rows, dynamic=True)} | ways
        for way, run in ways.items():
            try:
                with torch.inference_mode():
                    graphs = PackedGraphs(run, rungs, settings.max_batch_size, self._max_tokens, self._device)
                    rows = [self._replay(graphs, bucket_length(len(text), rungs), [text]).clone() for text in fitting]
                difference = relative_difference(torch.cat(rows), expected[: len(rows)])
            except Exception as error:  # Whatever is raised here, it can still serve without.
                logger.warning("model %s: its passes cannot be %s: %s: %s", name, way, type(error).__name__, error)
                continue
            if difference <= tolerance:
                return graphs
            logger.warning("model %s: %s passes differ by %.1e, more than rounding", name, way, difference)
        return None

    def _one_by_one(self, texts: Sequence[Ids]) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._run_padded([text], len(text)) for text in texts]).float()

    def _in_float32(self, texts: Sequence[Ids]) -> Tensor | None:
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

    def _reason_not_to_pack(self, texts: Sequence[Ids], expected: Tensor, tolerance: float) -> str | None:
        """Run ``texts`` packed; say why the model must not pack, or None where it may."""
        try:
            with torch.inference_mode():
                difference = relative_difference(self._run_packed(texts), expected)
        except Exception as error:  # Whatever a model raises here, it can still serve padded.
            return f"the packed pass raised {type(error).__name__}: {error}"
        if difference <= tolerance:
            return None
        return f"packed and one by one differ by {difference:.1e}, more than rounding ({tolerance:.0e})"


def restarting_positions(ids: Ids, lengths: Sequence[int], position_pad_id: int | None) -> Ids:
    """(tokens,) position of each token in its own sequence, as the model itself would count it.

    With ``position_pad_id`` that is RoBERTa's rule: from that id + 1, and a padding token (which a text can spell out)
    keeps the id itself and is not counted.
    """
    # No id is negative.
    counted = (ids != (-1 if position_pad_id is None else position_pad_id)).astype(np.int64)
    running = np.cumsum(counted)
    starts = np.cumsum([0, *lengths[:-1]])
    before = np.repeat(running[starts] - counted[starts], lengths)
    if position_pad_id is None:
        return running - before - 1
    return (running - before) * counted + position_pad_id
