"""Loads an encoder: weights and tokenizer, the self-check, and on CUDA the captured graphs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.tasks import TASKS
from windrow.worker.engines.base import EngineInfo
from windrow.worker.engines.device.int8 import load_int8
from windrow.worker.engines.device.token_batches import Tokens
from windrow.worker.engines.device.weights import (
    Weights,
    distinguishes_texts,
    load_weights,
    pick_device,
    pick_dtype,
    require_positions,
)
from windrow.worker.engines.text import self_check
from windrow.worker.engines.text.batch_runner import BatchRunner
from windrow.worker.engines.text.classify import ClassifyHead
from windrow.worker.engines.text.embed import EmbedHead
from windrow.worker.engines.text.encoder_forward import EncoderForward
from windrow.worker.engines.text.encoder_graphs import EncoderGraphs
from windrow.worker.engines.text.head import TaskHead
from windrow.worker.engines.text.rerank import RerankHead
from windrow.worker.engines.text.token_classify import TokenClassifyHead
from windrow.worker.engines.text.tokenization import TextPreparer, require_room
from windrow.worker.engines.text.zero_shot import ZeroShotHead

logger = logging.getLogger(__name__)

#: Task -> its head.
HEADS: dict[str, type[TaskHead]] = {
    "embed": EmbedHead,
    "classify": ClassifyHead,
    "token-classify": TokenClassifyHead,
    "rerank": RerankHead,
    "zero-shot": ZeroShotHead,
}


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A model that is ready to serve."""

    info: EngineInfo
    texts: TextPreparer
    runner: BatchRunner
    #: Width of the model's vectors.
    width: int


@dataclass(frozen=True, slots=True)
class _EncoderSource:
    """The files of a model and the device to load them to."""

    folder: Path
    head: type[TaskHead]
    device: torch.device
    max_tokens: int

    def load(self, dtype: torch.dtype) -> EncoderForward:
        """Load the weights, or share those that another model of the same source has loaded."""
        if dtype == torch.int8:
            return self._forward(load_int8(self.folder, self.head.auto_class))
        return self._forward(load_weights(self.folder, self.head.auto_class, dtype, self.device))

    def load_float32(self) -> EncoderForward:
        """Load the weights in float32 for a comparison, without caching them."""
        return self._forward(load_weights.__wrapped__(self.folder, self.head.auto_class, torch.float32, self.device))

    def float32_vectors(self, sequences: Sequence[Tokens]) -> Tensor | None:
        """Return the vectors of ``sequences`` one by one in float32; None if there is no memory for more weights."""
        try:
            return self.load_float32().one_by_one(sequences)
        except (torch.OutOfMemoryError, MemoryError):
            return None

    def _forward(self, weights: Weights) -> EncoderForward:
        return EncoderForward(self.head(weights, self.folder), weights, self.device, self.max_tokens)


def load_encoder(name: str, settings: ModelSettings) -> LoadedEncoder:
    """Load the model ``name`` and check what its settings ask for. Raises `ModelUnusable`."""
    task, head = TASKS[settings.task], HEADS[settings.task]
    folder = resolve_source(settings.source)
    limit = load_text_limit(settings.source, settings.max_input_tokens)
    device = pick_device()
    dtype = pick_dtype(settings.dtype, device)
    require_room(limit, ("", "") if task.reads_pairs else "")
    source = _EncoderSource(folder, head, device, limit.max_input_tokens)
    forward = source.load(dtype)
    require_positions(forward.weights, limit.max_input_tokens)
    types = task.reads_pairs and distinguishes_texts(forward.weights.module, folder)
    texts = TextPreparer(task, limit, folder, types=types, offsets=head.per_token)
    sequences = self_check.check_sequences(limit, forward.weights.pad_id, types)
    dtype_note = self_check.compare_int8(forward, source.load_float32, sequences) if dtype == torch.int8 else None
    if dtype_note:
        logger.warning("model %s: dtype int8 is replaced by float32: %s", name, dtype_note)
        dtype = torch.float32
        load_int8.cache_clear()
        forward = source.load(dtype)
    alone = forward.one_by_one(sequences)
    if not torch.isfinite(alone).all(dim=1).any():
        raise ModelUnusable(f"{folder}: its answers are NaN or infinite; are its weights damaged?")
    in_float32 = alone if dtype == torch.float32 else source.float32_vectors(sequences)
    reference = _reference(name, sequences, alone, in_float32, self_check.TOLERANCES[dtype], head.per_token)
    form = self_check.choose_batch_form(settings.strategy, forward, reference, task.reads_pairs)
    if form.note:
        logger.warning("model %s: strategy %s is replaced by %s: %s", name, settings.strategy, form.strategy, form.note)
    graphs = EncoderGraphs(forward)
    if device.type == "cuda":
        graphs.capture(form.strategy, settings, reference)
    served = alone if form.strategy == self_check.UNPADDED else forward.together(sequences, packed=form.packs)
    info = EngineInfo(
        model=name, task=settings.task, strategy=form.strategy, strategy_note=form.note, dtype_note=dtype_note,
        device=device.type, dtype=str(dtype).removeprefix("torch."),
        max_input_tokens=limit.max_input_tokens, is_captured=graphs.is_captured,
        relative_error=None if in_float32 is None else self_check.relative_difference(served, in_float32),
    )  # fmt: skip
    runner = BatchRunner(forward, form, graphs, settings.max_batch_tokens)
    return LoadedEncoder(info, texts, runner, alone.shape[1])


def _reference(
    name: str, sequences: Sequence[Tokens], alone: Tensor, in_float32: Tensor | None, tolerance: float, per_token: bool
) -> self_check.Reference:
    expected = alone if in_float32 is None else in_float32
    # If rounding to the dtype alone makes a larger difference than usual, so may other ways to run the model.
    tolerance = max(tolerance, 2 * self_check.relative_difference(alone, expected))
    vectors = expected.split([len(sequence) if per_token else 1 for sequence in sequences])
    return self_check.Reference(name, sequences, vectors, tolerance)
