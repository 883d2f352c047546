"""Attention over a paged cache, registered with transformers under the name `PAGED`.

A model that uses transformers' ``AttentionInterface`` writes the keys and values of a forward pass into the cache,
layer by layer, and attends to all that its sequences have there. The layout of a forward pass is set by `attending` and
not by keyword arguments, so that a compiled model sees one opaque operation for every layout.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from windrow.worker.engines.device.attention import UNSUPPORTED
from windrow.worker.engines.generation.kv_cache import PagedCache

PAGED = "windrow_paged"


class Layout(Protocol):
    """The sequences that the tokens of a forward pass belong to, and how they attend."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return (tokens, heads, head_dim) for ``query`` (heads, tokens, head_dim).

        ``key`` and ``value`` are (kv_heads, tokens, head_dim).
        """
        ...


class _Current(threading.local):
    layout: Layout | None = None
    #: Calls since `attending` began.
    calls: int = 0


_current = _Current()


@contextmanager
def attending(layout: Layout) -> Iterator[None]:
    """Use ``layout`` for the attention calls of this thread; raise `NotImplementedError` if there are none."""
    _current.layout, _current.calls = layout, 0
    try:
        yield
        if not _current.calls:
            raise NotImplementedError("the model has its own attention, which does not use the paged cache")
    finally:
        _current.layout = None


def _attend(query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float) -> Tensor:
    """See `Layout.attend`."""
    layout = _current.layout
    if layout is None:
        raise RuntimeError("attention over a paged cache was called outside of `attending`")
    _current.calls += 1
    return layout.attend(layer, query, key, value, scale)


_paged_attention = torch.library.custom_op("windrow::paged_attention", _attend, mutates_args=())


@_paged_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float) -> Tensor:
    heads, tokens, head_dim = query.shape
    return query.new_empty((tokens, heads, head_dim))


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Write the keys and values of this forward pass, and attend to the cached tokens of each sequence.

    ``query`` is (1, heads, tokens, head_dim); the result is (1, tokens, heads, head_dim), as transformers expects.
    Raises `NotImplementedError` for variants of attention that are not supported.
    """
    dropped = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    # A sliding window is ignored: models whose window is narrower than the context were refused when they loaded.
    if attention_mask is not None or dropped:
        raise NotImplementedError(f"attention over a paged cache does not take {', '.join(dropped) or 'a mask'}")
    layer: Any = module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Without a compiler, calling the custom operation costs too much.
    attend = _paged_attention if torch.compiler.is_compiling() else _attend
    return attend(query[0], key[0], value[0], layer, scale).unsqueeze(0), None


# Without a mask function of this name, transformers makes no mask; the layouts decide which tokens attend to which.
AttentionInterface.register(PAGED, paged_attention)


class ReadLayout:
    """Prompt chunks laid end to end, computed one sequence after the other. On any device."""

    def __init__(self, cache: PagedCache, tables: Tensor, starts: list[int], tokens: list[int]) -> None:
        """``tables`` (sequences, pages) is on the device; chunk i has ``tokens[i]`` tokens from ``starts[i]`` on."""
        self._cache, self._starts, self._tokens = cache, starts, tokens
        size = cache.page_tokens
        self._tables = [row[: -(-(at + count) // size)] for row, at, count in zip(tables, starts, tokens, strict=True)]
        device = tables.device
        at_each = [torch.arange(at, at + count, device=device) for at, count in zip(starts, tokens, strict=True)]
        self._pages = torch.cat([row[at // size] for row, at in zip(self._tables, at_each, strict=True)])
        self._places = torch.cat(at_each) % size

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout.attend`."""
        self._cache.write(layer, self._pages, self._places, key, value)
        parts = zip(*(x.split(self._tokens, dim=1) for x in (query, key, value)), strict=True)
        outputs = []
        for (q, k, v), table, start in zip(parts, self._tables, self._starts, strict=True):
            mask = None
            if start:
                stored = self._cache.read(layer, self._cache.parts_of(table[None]))
                k, v = (x[0, :, : start + q.shape[1]] for x in stored)
                mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril(start)
            out = F.scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
            )
            outputs.append(out[0].transpose(0, 1))
        return torch.cat(outputs)


class DecodeLayout:
    """One token of each sequence, all of them computed at once. On any device."""

    def __init__(self, cache: PagedCache, tables: Tensor, positions: Tensor, longest: int) -> None:
        """``tables`` (rows, pages) and ``positions`` (rows,) on the device; no position is above ``longest``."""
        self._cache = cache
        size = cache.page_tokens
        self._tables = tables[:, : longest // size + 1]
        self._pages = self._tables.gather(1, (positions // size)[:, None])[:, 0]
        self._parts = cache.parts_of(self._tables)
        self._places = positions % size
        every = torch.arange(self._tables.shape[1] * size, device=tables.device)
        self._mask = (every <= positions[:, None])[:, None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout.attend`."""
        self._cache.write(layer, self._pages, self._places, key, value)
        keys, values = self._cache.read(layer, self._parts)
        if self._cache.has_nan:
            unseen = ~self._mask.transpose(2, 3)
            keys, values = keys.masked_fill(unseen, 0), values.masked_fill(unseen, 0)
        out = F.scaled_dot_product_attention(
            query.transpose(0, 1)[:, :, None], keys, values, attn_mask=self._mask, scale=scale, enable_gqa=True
        )
        return out[:, :, 0]
