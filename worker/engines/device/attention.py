"""Attention over sequences laid end to end, registered with transformers under the name `PACKED`.

A model whose attention goes through transformers' ``AttentionInterface`` packs by being called with
``packed=PackedLayout(...)``: the keyword reaches `packed_attention` in every layer. Models with an attention of their
own (DeBERTa, MPNet) never call it, which `PackedLayout.uses` shows.
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
#: What some models hand to their attention and the kernels here do not compute.
UNSUPPORTED = ("softcap", "position_bias", "s_aux")


@dataclass(slots=True)
class PackedLayout:
    """Where each sequence lies in a packed pass."""

    #: (sequences + 1,), int32, on the device: where each sequence starts, then where the last one ends.
    cu_seqlens: Tensor
    #: No sequence has more tokens.
    longest: int
    #: Tokens of each sequence, in order; None in a captured pass, which knows them on the device only.
    lengths: list[int] | None = None
    #: Calls of `packed_attention` so far; 0 after a pass means that the model mixed its sequences.
    uses: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> PackedLayout:
        """Lay out sequences of ``lengths`` tokens."""
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(starts.to(device, non_blocking=True), max(lengths), list(lengths))

    def starts(self, tokens: int) -> Tensor:
        """(sequences,), int32: the first token of each sequence; of empty ones at the end, some token of ``tokens``."""
        return self.cu_seqlens[:-1].clamp(max=tokens - 1)

    def counts(self) -> Tensor:
        """(sequences,), int32: tokens of each sequence, on the device."""
        return self.cu_seqlens.diff()

    def owners(self, tokens: int) -> Tensor:
        """(tokens,): which sequence each token belongs to; those behind the last get the number of sequences."""
        every = torch.arange(tokens, dtype=torch.int32, device=self.cu_seqlens.device)
        # Among all offsets, less the first: compiled, a search of a slice reads from where the whole begins.
        return torch.searchsorted(self.cu_seqlens, every, right=True) - 1


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
    Raises `NotImplementedError` for a mask or a variant of attention that packing would silently drop.
    """
    dropped = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if attention_mask is not None or dropped:
        raise NotImplementedError(f"packed attention does not take {', '.join(dropped) or 'a mask'}")
    if not torch.compiler.is_compiling():
        packed.uses += 1
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    grouped = query.shape[1] != key.shape[1]
    # transformers' windows count the token itself: 65 means 64 to the left, and to the right where not causal.
    left = -1 if sliding_window is None else sliding_window - 1
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        # Imported here: builds of torch without CUDA need not have it.
        from torch.nn.attention.varlen import varlen_attn

        # Only what is wanted: the options came one by one, and older releases of torch lack some.
        extra: dict[str, Any] = {"enable_gqa": True} if grouped else {}
        if causal or left >= 0:
            extra["window_size"] = (left, 0 if causal else left)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        ends, longest = packed.cu_seqlens, packed.longest
        out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, **extra)
        return out.unsqueeze(0), None
    assert packed.lengths is not None  # captured passes are of the kinds above
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
    """(length, length), bool: True where a token may look, ``left`` back and ``right`` ahead."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril(right).triu(-left)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The layout already says who sees whom."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
