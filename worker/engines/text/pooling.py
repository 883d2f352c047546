"""Pooling functions: from the hidden states of a batch to one vector per sequence, in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from windrow.worker.engines.device.attention import PackedLayout

# Padded batches: (sequences, length, hidden) and a (sequences, length) mask -> (sequences, hidden).


def _padded_sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return torch.einsum("slh,sl->sh", hidden, mask.to(hidden.dtype))


def _padded_last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]


PADDED_POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "mean": lambda hidden, mask: _padded_sum(hidden, mask) / mask.sum(1, keepdim=True),
    "mean_sqrt_len_tokens": lambda hidden, mask: _padded_sum(hidden, mask) / mask.sum(1, keepdim=True).sqrt(),
    "max": lambda hidden, mask: hidden.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).amax(1),
    "lasttoken": _padded_last,
}

# Packed batches: (tokens, hidden) and the layout -> (sequences, hidden). Sums are taken in float32 and per sequence:
# differences of one running sum would lose digits, and carry a NaN of one sequence into all later ones.


def _packed_sum(hidden: Tensor, layout: PackedLayout) -> Tensor:
    # One row more than sequences, for the padding tokens at the end.
    sums = hidden.new_zeros(len(layout.cu_seqlens), hidden.shape[1], dtype=torch.float32)
    return sums.index_add_(0, layout.sequence_ids(len(hidden)), hidden.float())[:-1]


def _packed_max(hidden: Tensor, layout: PackedLayout) -> Tensor:
    sequence_ids = layout.sequence_ids(len(hidden)).unsqueeze(1).expand_as(hidden)
    lowest = hidden.new_full((len(layout.cu_seqlens), hidden.shape[1]), -torch.inf)
    return lowest.scatter_reduce_(0, sequence_ids, hidden, "amax")[:-1]


PACKED_POOLING: dict[str, Callable[[Tensor, PackedLayout], Tensor]] = {
    "cls": lambda hidden, layout: hidden[layout.starts(len(hidden))],
    "mean": lambda hidden, layout: _packed_sum(hidden, layout) / layout.counts().unsqueeze(1),
    "mean_sqrt_len_tokens": lambda hidden, layout: _packed_sum(hidden, layout) / layout.counts().unsqueeze(1).sqrt(),
    "max": _packed_max,
    "lasttoken": lambda hidden, layout: hidden[layout.cu_seqlens[1:] - 1],
}
