"""The paged KV cache: keys and values in pages of a fixed number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Share of the device memory left by the weights that becomes cache.
CUDA_SHARE = 0.85
#: Maximum size of the cache on a CPU without ``cache_tokens``.
CPU_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The shape of the keys and values that a model caches for each token."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> CacheShape:
        """Read the configuration of a transformers decoder."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=dtype,
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class PagedCache:
    """Keys and values of all layers. No sequence uses the last page: padding rows of a forward pass write to it."""

    def __init__(self, shape: CacheShape, pages: int, page_tokens: int, device: torch.device) -> None:
        """Allocate the memory. Raises torch's out-of-memory error if ``pages`` do not fit on the device."""
        self.pages = pages
        self.page_tokens = page_tokens
        # The part of one head in a page is contiguous, because an attention kernel reads it at once.
        size = (shape.layers, shape.kv_heads, pages + 1, page_tokens, shape.head_dim)
        #: Each (layers, kv_heads, pages + 1, page_tokens, head_dim). Zeroed: a NaN in memory that was never written
        #: would pass through an attention weight of zero.
        self.keys = torch.zeros(size, dtype=shape.dtype, device=device)
        self.values = torch.zeros(size, dtype=shape.dtype, device=device)
        #: A sequence had NaN or infinity, which its pages may still contain when others receive them. Attention weights
        #: of zero do not hide these values.
        self.has_nan = False

    def write(self, layer: int, pages: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store (kv_heads, tokens, head_dim) keys and values at (tokens,) places of (tokens,) pages."""
        self.keys[layer][:, pages, places] = keys
        self.values[layer][:, pages, places] = values

    def parts_of(self, tables: Tensor) -> Tensor:
        """Return the (rows, kv_heads, pages) indices that `read` takes for (rows, pages) page numbers, in any layer."""
        heads, pages = self.keys.shape[1:3]
        return torch.arange(heads, device=tables.device)[:, None] * pages + tables[:, None]

    def read(self, layer: int, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (rows, kv_heads, pages * page_tokens, head_dim); see `parts_of`."""
        return self._read(self.keys[layer], parts), self._read(self.values[layer], parts)

    @staticmethod
    def _read(stored: Tensor, parts: Tensor) -> Tensor:
        # One index for each contiguous part: an index per dimension is ten times as slow on a CPU.
        gathered = stored.flatten(0, 1).flatten(1).index_select(0, parts.flatten())
        rows, heads, pages = parts.shape
        return gathered.view(rows, heads, pages * stored.shape[2], stored.shape[3])


def cache_pages(
    shape: CacheShape,
    page_tokens: int,
    context_tokens: int,
    max_batch_size: int,
    cache_tokens: int | None,
    device: torch.device,
) -> int:
    """Return the number of cache pages: for ``cache_tokens`` if given, else for the memory of the device.

    Without ``cache_tokens``, ``max_batch_size`` sequences of ``context_tokens`` are the upper limit.
    """
    if cache_tokens is not None:
        return -(-cache_tokens // page_tokens)
    room = int(torch.cuda.mem_get_info(device)[0] * CUDA_SHARE) if device.type == "cuda" else CPU_BYTES
    enough = max_batch_size * -(-context_tokens // page_tokens)
    return max(1, min(enough, room // (shape.token_bytes * page_tokens)))
