"""The captured batches of an encoder: which sizes are captured at load, their check, and their replay."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import Batch, bucket_length, token_rungs
from windrow.worker.engines.device.captured_sizes import captured_padded_sizes, captured_sequences
from windrow.worker.engines.device.host_constants import keeping_constants
from windrow.worker.engines.device.packed_graphs import PackedFunction, PackedGraphs
from windrow.worker.engines.device.padded_graphs import PaddedFunction, PaddedGraphs
from windrow.worker.engines.device.token_batches import Tokens, pack_batch
from windrow.worker.engines.text.encoder_forward import EncoderForward
from windrow.worker.engines.text.self_check import Reference

logger = logging.getLogger(__name__)
T = TypeVar("T")


class EncoderGraphs:
    """The captured batches of one encoder: packed ones, padded ones, or none."""

    def __init__(self, forward: EncoderForward) -> None:
        self._forward = forward
        self.packed: PackedGraphs | None = None
        self.padded: PaddedGraphs | None = None
        #: Length of a bucket -> numbers of rows that were captured.
        self.row_counts: dict[int, tuple[int, ...]] = {}

    @property
    def is_captured(self) -> bool:
        """Whether any batch is captured."""
        return self.packed is not None or self.padded is not None

    def capture(self, strategy: str, settings: ModelSettings, reference: Reference) -> None:
        """Capture the batches of ``strategy`` if they have fixed sizes and the graphs agree with ``reference``."""
        # The kernel of packed batches takes half precision only.
        if strategy == "packed" and self._forward.weights.module.dtype != torch.float32:
            self._forward.use_packed_attention()
            self.packed = self._capture_packed(settings, reference)
        elif strategy == "bucket":
            self._forward.use_padded_attention()
            self.padded = self._capture_padded(settings, reference)
            if self.padded is not None:
                self.row_counts = captured_padded_sizes(settings, self._forward.max_tokens)

    def replay(self, sequences: Sequence[Tokens], batch: Batch, began: torch.cuda.Event | None) -> Tensor | None:
        """Start the graph of a planned batch and return its vectors; None if there is no graph of its size.

        The vectors are valid until the next call. ``began`` is recorded when the device gets its first work.
        """
        length, tokens = batch.padded_length, batch.tokens
        if length is None:
            if self.packed is not None and self.packed.has(tokens, len(sequences)):
                return self._replay_packed(self.packed, tokens, sequences, began)
        elif self.padded is not None and length and all(len(sequence) <= length for sequence in sequences):
            rows = tokens // length
            if len(sequences) <= rows and self.padded.has(rows, length):
                return self._replay_padded(self.padded, rows, length, sequences, began)
        return None

    def _replay_packed(
        self, graphs: PackedGraphs, size: int, sequences: Sequence[Tokens], began: torch.cuda.Event | None = None
    ) -> Tensor:
        lengths = [len(sequence) for sequence in sequences]
        arrays = pack_batch(sequences, self._forward.weights.position_pad_id)
        vectors = graphs.replay(size, arrays, lengths, began)
        return vectors[: sum(lengths) if self._forward.head.per_token else len(sequences)]

    def _replay_padded(
        self,
        graphs: PaddedGraphs,
        rows: int,
        length: int,
        sequences: Sequence[Tokens],
        began: torch.cuda.Event | None = None,
    ) -> Tensor:
        vectors = graphs.replay(rows, length, sequences, began)
        if not self._forward.head.per_token:
            return vectors
        mask = np.arange(length) < np.array([len(sequence) for sequence in sequences])[:, None]
        return self._forward.without_padding(vectors, mask)

    def _capture_packed(self, settings: ModelSettings, reference: Reference) -> PackedGraphs | None:
        """Capture packed batches, compiled if that works; None if neither works."""
        forward, sizes = self._forward, token_rungs(settings.max_batch_tokens)
        arrays = 2 + reference.has_types

        def graphs_of(function: PackedFunction) -> PackedGraphs:
            sequences = captured_sequences(settings)
            return PackedGraphs(function, sizes, sequences, forward.max_tokens, arrays, forward.device)

        def replay(graphs: PackedGraphs, sequence: Tokens) -> Tensor:
            return self._replay_packed(graphs, bucket_length(len(sequence), sizes), [sequence])

        function = forward.head.packed_vectors
        attempts = {"captured": lambda: graphs_of(function)}
        if settings.compile:
            attempts = {"compiled": lambda: graphs_of(torch.compile(function, dynamic=True))} | attempts
        # With a small budget, only some of the test sequences fit into a batch.
        return _first_that_agrees(attempts, replay, reference.up_to(sizes[-1]))

    def _capture_padded(self, settings: ModelSettings, reference: Reference) -> PaddedGraphs | None:
        """Capture padded batches, with host constants kept on the device if needed; None if neither works."""
        forward = self._forward
        row_counts = {
            length: rows for length, rows in captured_padded_sizes(settings, forward.max_tokens).items() if rows
        }
        shapes = [(count, length) for length, rows in row_counts.items() for count in rows]
        arrays = 1 + reference.has_types

        def graphs_of(function: PaddedFunction) -> PaddedGraphs:
            return PaddedGraphs(function, shapes, arrays, forward.weights.pad_id, forward.device)

        def replay(graphs: PaddedGraphs, sequence: Tokens) -> Tensor:
            length = bucket_length(len(sequence), tuple(row_counts))
            # With a row that has no sequence, if a batch of two or more rows was captured.
            return self._replay_padded(graphs, row_counts[length][:2][-1], length, [sequence])

        function = forward.head.padded_vectors
        attempts = {
            "captured": lambda: graphs_of(function),
            "captured with constants kept": lambda: graphs_of(keeping_constants(function)),
        }
        return _first_that_agrees(attempts, replay, reference.up_to(max(row_counts)))


def _first_that_agrees(
    attempts: Mapping[str, Callable[[], T]], replay: Callable[[T, Tokens], Tensor], reference: Reference
) -> T | None:
    """Return the first graphs that can be captured and whose vectors agree with ``reference``; None if none do."""
    for kind, capture in attempts.items():
        try:
            with torch.inference_mode():
                graphs = capture()
                # Each replay overwrites the vectors of the one before.
                vectors = [replay(graphs, sequence).clone() for sequence in reference.sequences]
            difference = reference.difference(vectors)
        except Exception as error:  # Whatever the model raises here, it can still serve without graphs.
            logger.warning(
                "model %s: its batches cannot be %s: %s: %s", reference.model, kind, type(error).__name__, error
            )
            continue
        if difference <= reference.tolerance:
            return graphs
        logger.warning("model %s: %s batches differ by %.1e, more than rounding", reference.model, kind, difference)
    return None
