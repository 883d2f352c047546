"""Attention for packed batches, registered with transformers under the name `PACKED`.

If the attention of a model goes through the ``AttentionInterface`` of transformers, call the model with
``packed=PackedLayout(...)`` to run a packed batch: the argument reaches `packed_attention` in every layer. A model with
an attention of its own, such as DeBERTa or MPNet, never calls it, and `PackedLayout.attention_calls` stays 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

PACKED = "windrow_packed"
#: Arguments of some models' attention that the kernels here do not support.
UNSUPPORTED = ("softcap", "position_bias", "s_aux")


@dataclass(slots=True)
class PackedLayout:
    """The position of each sequence in a packed batch."""

    #: (sequences + 1,), int32, on the device: the start of each sequence, then the end of the last one.
    cu_seqlens: Tensor
    #: Upper bound of the tokens of a sequence.
    max_length: int
    #: Tokens of each sequence, in order; None in a captured batch, whose lengths are known on the device only.
    lengths: list[int] | None = None
    #: Calls of `packed_attention`; if it is 0 after a forward pass, the model has mixed the sequences.
    attention_calls: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> PackedLayout:
        """Return the layout of sequences of ``lengths`` tokens, one after the other."""
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(starts.to(device, non_blocking=True), max(lengths), list(lengths))

    def starts(self, tokens: int) -> Tensor:
        """Return the (sequences,), int32, first token of each sequence; for an empty one at the end, any token."""
        return self.cu_seqlens[:-1].clamp(max=tokens - 1)

    def counts(self) -> Tensor:
        """Return the (sequences,), int32, number of tokens of each sequence, on the device."""
        return self.cu_seqlens.diff()

    def sequence_ids(self, tokens: int) -> Tensor:
        """Return the (tokens,) index of each token's sequence; for padding at the end, the number of sequences."""
        positions = torch.arange(tokens, dtype=torch.int32, device=self.cu_seqlens.device)
        # Searches all offsets and subtracts 1: compiled code that searches a slice reads from the start of the whole.
        return torch.searchsorted(self.cu_seqlens, positions, right=True) - 1


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    *,
    packed: PackedLayout,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence only.

    ``query`` is (1, heads, tokens, head_dim); the result is (1, tokens, heads, head_dim), as transformers expects.
    Raises `NotImplementedError` for a mask or an argument that it would otherwise ignore.
    """
    unsupported = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if attention_mask is not None or unsupported:
        raise NotImplementedError(f"packed attention does not take {', '.join(unsupported) or 'a mask'}")
    if not torch.compiler.is_compiling():
        packed.attention_calls += 1
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    grouped = query.shape[1] != key.shape[1]
    # In transformers a window includes the token itself: 65 means 64 to the left, and 64 to the right if not causal.
    left = -1 if sliding_window is None else sliding_window - 1
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        # Imported here, because builds of torch without CUDA may lack it.
        from torch.nn.attention.varlen import varlen_attn

        # Only the options in use, because older releases of torch lack some of them.
        extra: dict[str, Any] = {"enable_gqa": True} if grouped else {}
        if causal or left >= 0:
            extra["window_size"] = (left, 0 if causal else left)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        offsets, longest = packed.cu_seqlens, packed.max_length
        out = varlen_attn(q, k, v, offsets, offsets, longest, longest, scale=scaling, **extra)
        return out.unsqueeze(0), None
    assert packed.lengths is not None  # only batches in half precision on CUDA are captured
    parts = zip(*(x.split(packed.lengths, dim=2) for x in (query, key, value)), strict=True)
    outputs = []
    for q, k, v in parts:
        mask = None if left < 0 or q.shape[2] <= left + 1 else _band(q.shape[2], left, 0 if causal else left, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scaling, enable_gqa=grouped
        )
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _band(length: int, left: int, right: int, device: torch.device) -> Tensor:
    """Return a (length, length), bool mask: True for each token from ``left`` before to ``right`` after the token."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril(right).triu(-left)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """No mask: the layout says which tokens attend to each other."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
