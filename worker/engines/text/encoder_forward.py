"""Forward passes of an encoder without CUDA graphs: padded or packed, split over the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windrow.scheduler.core.core_split import cut_evenly
from windrow.worker.engines.device.attention import PACKED, PackedLayout
from windrow.worker.engines.device.cores import BatchPart, cores, start_on_cores, wait_for_cores
from windrow.worker.engines.device.token_batches import Ids, Tokens, pack_batch, pad_batch
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.head import TaskHead


class EncoderForward:
    """Runs one set of weights, with the head of one task, on one device.

    Results are (vectors, width) in the order of the sequences; see `TaskHead`.
    """

    def __init__(self, head: TaskHead, weights: Weights, device: torch.device, max_tokens: int) -> None:
        """``max_tokens`` is the longest sequence that the model takes."""
        self.head = head
        self.weights = weights
        self.device = device
        self.max_tokens = max_tokens

    def one_by_one(self, sequences: Sequence[Tokens]) -> Tensor:
        """Run each sequence in a batch of one; return the vectors in float32."""
        with torch.inference_mode():
            return torch.cat(
                [self._run(partial(self.split_padded, [sequence], len(sequence))) for sequence in sequences]
            ).float()

    def together(self, sequences: Sequence[Tokens], *, packed: bool) -> Tensor:
        """Run the sequences in one batch, packed or padded to the longest."""
        split = partial(self.split_packed, sequences) if packed else partial(self.split_padded, sequences, 0)
        with torch.inference_mode():
            return self._run(split)

    def _run(self, split: Callable[[], list[BatchPart]]) -> Tensor:
        if self.device.type != "cpu":
            return torch.cat([part() for part in split()])
        return start_on_cores(split).result()

    def split_padded(self, sequences: Sequence[Tokens], length: int) -> list[BatchPart]:
        """Return the parts of a batch padded to ``length`` tokens: one per CPU core, or one on a GPU."""
        # Not wider than the position table, and at least as wide as the longest sequence.
        length = max(min(length, self.max_tokens), *(len(sequence) for sequence in sequences), 1)
        self.use_padded_attention()
        return self._split(sequences, [length] * len(sequences), partial(self._run_padded, length=length))

    def split_packed(self, sequences: Sequence[Tokens]) -> list[BatchPart]:
        """Return the parts of a packed batch: one per CPU core, or one on a GPU."""
        self.use_packed_attention()
        return self._split(sequences, [len(sequence) for sequence in sequences], self._run_packed)

    def _split(
        self, sequences: Sequence[Tokens], tokens: Sequence[int], run: Callable[[Sequence[Tokens]], Tensor]
    ) -> list[BatchPart]:
        if self.device.type != "cpu":
            return [partial(run, sequences)]
        return [partial(run, sequences[part]) for part in cut_evenly(tokens, cores())]

    def _run_padded(self, sequences: Sequence[Tokens], length: int) -> Tensor:
        batch = pad_batch(sequences, length, self.weights.pad_id)
        types = None if batch.types is None else self.on_device(batch.types)
        mask = None if batch.mask.all() else self.on_device(batch.mask)
        vectors = self.head.padded_vectors(self.on_device(batch.ids), mask, types)
        return self.without_padding(vectors, batch.mask) if self.head.per_token else vectors

    def _run_packed(self, sequences: Sequence[Tokens]) -> Tensor:
        layout = PackedLayout.of([len(sequence) for sequence in sequences], self.device)
        arrays = pack_batch(sequences, self.weights.position_pad_id)
        ids, positions, *types = (self.on_device(array[None]) for array in arrays)
        vectors = self.head.packed_vectors(ids, positions, layout, *types)
        if not layout.attention_calls:
            raise NotImplementedError(f"{type(self.weights.module).__name__} has an attention of its own")
        return vectors

    def without_padding(self, vectors: Tensor, mask: NDArray[Any]) -> Tensor:
        """(sequences, length, width) vectors and a mask of the tokens -> (tokens, width)."""
        # Indices computed on the host: indexing with a mask would make the host wait for the device to count it.
        return vectors.flatten(0, 1)[self.on_device(np.flatnonzero(mask))]

    def use_padded_attention(self) -> None:
        """Select the attention of padded batches."""
        self._use_attention(self.weights.padded_attention)

    def use_packed_attention(self) -> None:
        """Select the attention of packed batches."""
        self._use_attention(PACKED)

    def _use_attention(self, attention: str) -> None:
        # Models of the same source share weights and config, so batches of another one may still use the old value.
        config = self.weights.module.config
        if config._attn_implementation != attention:
            wait_for_cores()
            config._attn_implementation = attention

    def on_device(self, array: Ids) -> Tensor:
        """Copy ``array`` to the device."""
        tensor = torch.from_numpy(array)
        # Pinned, because the host would wait for a copy from pageable memory.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor
