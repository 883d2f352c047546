"""Runs the planned batches of an encoder: by a captured graph if there is one, else by an ordinary forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from windrow.scheduler.core.planning import Batch, BatchLimits, plan_batches, token_rungs
from windrow.worker.engines.device.cores import BatchPart
from windrow.worker.engines.device.token_batches import Tokens
from windrow.worker.engines.text.encoder_forward import EncoderForward
from windrow.worker.engines.text.encoder_graphs import EncoderGraphs
from windrow.worker.engines.text.self_check import BatchForm


class BatchRunner:
    """Runs batches as far as the self-check allows: packed, padded, or one sequence at a time."""

    def __init__(self, forward: EncoderForward, form: BatchForm, graphs: EncoderGraphs, max_batch_tokens: int) -> None:
        self.forward = forward
        self.form = form
        self._graphs = graphs
        self._max_batch_tokens = max_batch_tokens

    def parts_on_cpu(self, sequences: Sequence[Tokens], batch: Batch) -> list[BatchPart]:
        """Split a batch into parts for `windrow.worker.engines.device.cores.start_on_cores`."""
        return [part for piece in self._within_budget(sequences, batch) for part in self._split(*piece)]

    def run_on_device(self, sequences: Sequence[Tokens], batch: Batch, began: torch.cuda.Event) -> Tensor:
        """Start a batch on a GPU, in inference mode; return its vectors, valid until the next call.

        ``began`` is recorded again if the device gets its first work later than this call.
        """
        first, *others = self._within_budget(sequences, batch)
        vectors = self._run(*first, began)
        if not others:
            return vectors
        # The result of a graph is overwritten by its next replay.
        return torch.cat([vectors.clone(), *(self._run(*piece).clone() for piece in others)])

    def _within_budget(self, sequences: Sequence[Tokens], batch: Batch) -> list[tuple[Sequence[Tokens], Batch]]:
        """Return the batch, split into several if one request has more sequences than ``max_batch_tokens`` allows."""
        if batch.tokens <= self._max_batch_tokens or len(sequences) == 1:
            return [(sequences, batch)]
        rungs = token_rungs(self._max_batch_tokens) if self._graphs.packed is not None else ()
        # Strategies that keep the order of the sequences: with one bucket, ``bucket`` does.
        strategy, length = ("packed", 1) if batch.padded_length is None else ("bucket", batch.padded_length)
        row_rungs = (self._graphs.row_counts.get(length, ()),)
        limits = BatchLimits(len(sequences), self._max_batch_tokens, (length,), rungs=rungs, row_rungs=row_rungs)
        plan = plan_batches(strategy, [len(sequence) for sequence in sequences], limits)
        return [([sequences[index] for index in part.indices], part) for part in plan]

    def _run(self, sequences: Sequence[Tokens], batch: Batch, began: torch.cuda.Event | None = None) -> Tensor:
        vectors = self._graphs.replay(sequences, batch, began)
        return torch.cat([part() for part in self._split(sequences, batch)]) if vectors is None else vectors

    def _split(self, sequences: Sequence[Tokens], batch: Batch) -> list[BatchPart]:
        if batch.padded_length is None and self.form.packs:
            return self.forward.split_packed(sequences)
        if not self.form.pads:
            return [part for sequence in sequences for part in self.forward.split_padded([sequence], len(sequence))]
        return self.forward.split_padded(sequences, batch.padded_length or 0)
