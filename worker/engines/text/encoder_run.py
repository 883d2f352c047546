"""One run of an encoder: sequences in, rows out; padded or end to end, in pieces on a CPU, by a graph on CUDA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windrow.scheduler.core.core_split import cut_evenly
from windrow.worker.engines.device.attention import PACKED, PackedLayout
from windrow.worker.engines.device.cores import Piece, cores, finish_on_cores, start_on_cores
from windrow.worker.engines.device.packed_graphs import PackedGraphs
from windrow.worker.engines.device.padded_graphs import RectangleGraphs
from windrow.worker.engines.device.weights import Weights
from windrow.worker.engines.text.sequences import Ids, Tokens, as_rectangle, end_to_end


class EncoderRuns(ABC):
    """The runs of one model. A task adds how the hidden states become rows."""

    #: Whether there is a row for each token, and not one for each sequence; offsets come with the tokens then.
    rows_per_token: ClassVar[bool] = False

    _weights: Weights
    _device: torch.device
    #: Of the longest sequence that the model takes.
    _max_tokens: int

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

    def _one_by_one(self, texts: Sequence[Tokens]) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._run_padded([text], len(text)) for text in texts]).float()

    def _run_padded(self, texts: Sequence[Tokens], wished_length: int) -> Tensor:
        return self._run_now(partial(self._cut_padded, texts, wished_length))

    def _cut_padded(self, texts: Sequence[Tokens], wished_length: int) -> list[Piece]:
        # A rectangle wider than the position table would fail, one narrower than its longest text cannot be.
        length = max(min(wished_length, self._max_tokens), *(len(text) for text in texts), 1)
        self._attend_padded()
        return self._cut(texts, [length] * len(texts), partial(self._run_rectangle, length=length))

    def _attend_padded(self) -> None:
        self._attend(self._weights.padded_attention)

    def _run_rectangle(self, texts: Sequence[Tokens], length: int) -> Tensor:
        ids, mask, types = as_rectangle(texts, length, self._weights.pad_id)
        told = None if types is None else self._on_device(types)
        rows = self._padded_rows(self._on_device(ids), None if mask.all() else self._on_device(mask), told)
        return self._of_tokens(rows, mask) if self.rows_per_token else rows

    def _of_tokens(self, rows: Tensor, mask: NDArray[Any]) -> Tensor:
        # By number and not by mask, whose count the device would have to be asked for.
        return rows.flatten(0, 1)[self._on_device(np.flatnonzero(mask))]

    def _replay_rectangle(
        self,
        graphs: RectangleGraphs,
        rows: int,
        length: int,
        texts: Sequence[Tokens],
        began: torch.cuda.Event | None = None,
    ) -> Tensor:
        answers = graphs.replay(rows, length, texts, began)
        if not self.rows_per_token:
            return answers
        return self._of_tokens(answers, np.arange(length) < np.array([len(text) for text in texts])[:, None])

    def _run_packed(self, texts: Sequence[Tokens]) -> Tensor:
        return self._run_now(partial(self._cut_packed, texts))

    def _cut_packed(self, texts: Sequence[Tokens]) -> list[Piece]:
        self._attend_packed()
        return self._cut(texts, [len(text) for text in texts], self._run_end_to_end)

    def _attend_packed(self) -> None:
        self._attend(PACKED)

    def _attend(self, attention: str | None) -> None:
        # Weights are shared: another entry may have left another attention in place, and may still be using it.
        config = self._weights.module.config
        if config._attn_implementation != attention:
            finish_on_cores()
            config._attn_implementation = attention

    def _run_end_to_end(self, texts: Sequence[Tokens]) -> Tensor:
        layout = PackedLayout.of([len(text) for text in texts], self._device)
        channels = end_to_end(texts, self._weights.position_pad_id)
        ids, positions, *types = (self._on_device(channel[None]) for channel in channels)
        rows = self._packed_rows(ids, positions, layout, *types)
        if not layout.uses:
            raise NotImplementedError(f"{type(self._weights.module).__name__} has an attention of its own")
        return rows

    def _replay_packed(
        self, graphs: PackedGraphs, rung: int, texts: Sequence[Tokens], began: torch.cuda.Event | None = None
    ) -> Tensor:
        lengths, channels = [len(text) for text in texts], end_to_end(texts, self._weights.position_pad_id)
        return graphs.replay(rung, channels, lengths, began)[: sum(lengths) if self.rows_per_token else len(texts)]

    def _cut(
        self, texts: Sequence[Tokens], tokens: Sequence[int], run: Callable[[Sequence[Tokens]], Tensor]
    ) -> list[Piece]:
        """``run`` over all of ``texts``: in pieces for the cores of a CPU, at once on a device."""
        if self._device.type != "cpu":
            return [partial(run, texts)]
        return [partial(run, texts[part]) for part in cut_evenly(tokens, cores())]

    def _run_now(self, cut: Callable[[], list[Piece]]) -> Tensor:
        if self._device.type != "cpu":
            return torch.cat([piece() for piece in cut()])
        return start_on_cores(cut).rows()

    def _on_device(self, array: Ids) -> Tensor:
        tensor = torch.from_numpy(array)
        # Copies from pageable memory make the host wait.
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor
