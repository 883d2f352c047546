"""The key/value cache: pages of a fixed number of tokens, which sequences get one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Of the device memory that is free once the weights are loaded, the share that becomes cache.
CUDA_SHARE = 0.85
#: The most that becomes cache on a CPU unless ``cache_tokens`` says otherwise.
CPU_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a model keeps of each token."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> CacheShape:
        """Read a decoder's configuration, as transformers' families write it."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=dtype,
        )

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class PagedCache:
    """Keys and values of all layers. The last page belongs to nobody: rows that only fill up a pass write there."""

    def __init__(self, shape: CacheShape, pages: int, page_tokens: int, device: torch.device) -> None:
        """Raises torch's out-of-memory error where the device has no room for so many pages."""
        self.pages = pages
        self.page_tokens = page_tokens
        # A head's part of a page lies in one piece, which is what an attention kernel reads at once.
        size = (shape.layers, shape.kv_heads, pages + 1, page_tokens, shape.head_dim)
        #: Each (layers, kv_heads, pages + 1, page_tokens, head_dim). Zeroed: nobody reads what nobody wrote, but a NaN
        #: that was left in memory would come through a weight of zero.
        self.keys = torch.zeros(size, dtype=shape.dtype, device=device)
        self.values = torch.zeros(size, dtype=shape.dtype, device=device)
        #: Some sequence had NaN or infinity, which its pages may still hold when others get them: a weight of zero
        #: does not undo it.
        self.has_nan = False

    def write(self, layer: int, pages: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store (kv_heads, tokens, head_dim) at (tokens,) places of (tokens,) pages."""
        self.keys[layer][:, pages, places] = keys
        self.values[layer][:, pages, places] = values

    def parts_of(self, tables: Tensor) -> Tensor:
        """(rows, pages) page numbers -> (rows, kv_heads, pages) what `read` takes; the same in all layers."""
        heads, pages = self.keys.shape[1:3]
        return torch.arange(heads, device=tables.device)[:, None] * pages + tables[:, None]

    def read(self, layer: int, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `parts_of` some tables, each (rows, kv_heads, pages * page_tokens, head_dim)."""
        return self._read(self.keys[layer], parts), self._read(self.values[layer], parts)

    @staticmethod
    def _read(held: Tensor, parts: Tensor) -> Tensor:
        # Whole parts in one piece each: an index per dimension would be ten times as slow on a CPU.
        gathered = held.flatten(0, 1).flatten(1).index_select(0, parts.flatten())
        rows, heads, pages = parts.shape
        return gathered.view(rows, heads, pages * held.shape[2], held.shape[3])


def cache_pages(
    shape: CacheShape,
    page_tokens: int,
    context_tokens: int,
    max_batch_size: int,
    wished_tokens: int | None,
    device: torch.device,
) -> int:
    """Pages of the cache: as wished, else what the device has room for and ``max_batch_size`` sequences can fill."""
    if wished_tokens is not None:
        return -(-wished_tokens // page_tokens)
    room = int(torch.cuda.mem_get_info(device)[0] * CUDA_SHARE) if device.type == "cuda" else CPU_BYTES
    enough = max_batch_size * -(-context_tokens // page_tokens)
    return max(1, min(enough, room // (shape.token_bytes * page_tokens)))
