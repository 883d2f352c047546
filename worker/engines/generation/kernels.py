"""Attention over a paged cache on CUDA, in Triton: prefill of prompts, and decoding of one token per sequence.

Both read keys and values in place, through the page table of each sequence. Memory limits the speed of decoding: the
query heads that share a key head are computed together, so that each key is read once. With few sequences, each one is
split over several programs, whose results are combined afterwards (flash-decoding). Exponentials have base 2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634


@triton.jit
def _decode_kernel(
    q_ptr, k_ptr, v_ptr, cache_k_ptr, cache_v_ptr, tables_ptr, rows_ptr, positions_ptr, out_ptr, part_ptr, sums_ptr,
    scale,
    q_row, q_head, k_row, k_head, v_row, v_head, cache_head, table_row,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend for one sequence, one key head and one part of the keys; the first part also caches the newest token."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    slot = tl.load(rows_ptr + row)
    position = tl.load(positions_ptr + row).to(tl.int32)
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_dim = d < HEAD_DIM
    head = kv_head * GROUP + g
    in_group = g < GROUP
    q_mask = in_group[:, None] & in_dim[None, :]
    q = tl.load(q_ptr + row * q_row + head[:, None] * q_head + d[None, :], mask=q_mask, other=0.0)
    new_k = tl.load(k_ptr + row * k_row + kv_head * k_head + d, mask=in_dim, other=0.0)
    new_v = tl.load(v_ptr + row * v_row + kv_head * v_head + d, mask=in_dim, other=0.0)
    table = tables_ptr + slot * table_row
    base = kv_head.to(tl.int64) * cache_head
    if split == 0:
        page = tl.load(table + position // PAGE).to(tl.int64)
        at = base + (page * PAGE + position % PAGE) * HEAD_DIM
        tl.store(cache_k_ptr + at + d, new_k, mask=in_dim)
        tl.store(cache_v_ptr + at + d, new_v, mask=in_dim)
    # The newest token is attended to from registers, because other programs do not see the store yet.
    each = tl.cdiv(tl.cdiv(position, SPLITS), BLOCK_N) * BLOCK_N
    begin = split * each
    end = tl.minimum(begin + each, position)
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    acc = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    if split == 0:
        top = tl.sum(q.to(tl.float32) * new_k.to(tl.float32)[None, :], 1) * scale
        total += 1.0
        acc += new_v.to(tl.float32)[None, :]
    for start in range(begin, end, BLOCK_N):
        at_n = start + n
        seen = at_n < end
        page = tl.load(table + at_n // PAGE, mask=seen, other=0).to(tl.int64)
        offsets = base + (page * PAGE + at_n % PAGE) * HEAD_DIM
        kv_mask = seen[:, None] & in_dim[None, :]
        k = tl.load(cache_k_ptr + offsets[:, None] + d[None, :], mask=kv_mask, other=0.0)
        v = tl.load(cache_v_ptr + offsets[:, None] + d[None, :], mask=kv_mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        top = higher
    if SPLITS == 1:
        out = acc / total[:, None]
        at_out = (row * tl.num_programs(1) * GROUP + head) * HEAD_DIM
        tl.store(out_ptr + at_out[:, None] + d[None, :], out.to(out_ptr.dtype.element_ty), mask=q_mask)
    else:
        at_part = (row * tl.num_programs(1) * GROUP + head) * SPLITS + split
        tl.store(part_ptr + at_part[:, None] * BLOCK_D + d[None, :], acc, mask=in_group[:, None])
        tl.store(sums_ptr + at_part * 2, top, mask=in_group)
        tl.store(sums_ptr + at_part * 2 + 1, total, mask=in_group)


@triton.jit
def _join_kernel(
    part_ptr, sums_ptr, out_ptr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """Put the parts of one row and head together."""
    one = tl.program_id(0)
    s = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    tops = tl.load(sums_ptr + (one * SPLITS + s) * 2)
    totals = tl.load(sums_ptr + (one * SPLITS + s) * 2 + 1)
    weights = tl.exp2(tops - tl.max(tops, 0))
    parts = tl.load(part_ptr + (one * SPLITS + s)[:, None] * BLOCK_D + d[None, :])
    out = tl.sum(parts * weights[:, None], 0) / tl.sum(totals * weights, 0)
    tl.store(out_ptr + one * HEAD_DIM + d, out.to(out_ptr.dtype.element_ty), mask=d < HEAD_DIM)


@triton.jit
def _write_kernel(
    k_ptr, v_ptr, cache_k_ptr, cache_v_ptr, places_ptr,
    k_row, k_head, v_row, v_head, cache_head,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the key and value of one token and head at its place: page * page_tokens + offset."""
    token = tl.program_id(0)
    head = tl.program_id(1)
    place = tl.load(places_ptr + token).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    in_dim = d < HEAD_DIM
    at = head.to(tl.int64) * cache_head + place * HEAD_DIM + d
    tl.store(cache_k_ptr + at, tl.load(k_ptr + token * k_row + head * k_head + d, mask=in_dim), mask=in_dim)
    tl.store(cache_v_ptr + at, tl.load(v_ptr + token * v_row + head * v_head + d, mask=in_dim), mask=in_dim)


@triton.jit
def _read_kernel(
    q_ptr, cache_k_ptr, cache_v_ptr, tables_ptr, blocks_ptr, out_ptr,
    scale,
    q_row, q_head, cache_head, table_row,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend for one block of queries and one head. A block is (slot, first token in the pass, tokens, position)."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    slot = tl.load(blocks_ptr + block * 4)
    first = tl.load(blocks_ptr + block * 4 + 1)
    tokens = tl.load(blocks_ptr + block * 4 + 2)
    position = tl.load(blocks_ptr + block * 4 + 3)
    if tokens == 0:
        return
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    in_dim = d < HEAD_DIM
    q_mask = (m < tokens)[:, None] & in_dim[None, :]
    q = tl.load(q_ptr + (first + m)[:, None] * q_row + head * q_head + d[None, :], mask=q_mask, other=0.0)
    table = tables_ptr + slot * table_row
    base = (head // GROUP).to(tl.int64) * cache_head
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = position + tokens
    for start in range(0, end, BLOCK_N):
        at_n = start + n
        seen = at_n < end
        page = tl.load(table + at_n // PAGE, mask=seen, other=0).to(tl.int64)
        offsets = base + (page * PAGE + at_n % PAGE) * HEAD_DIM
        kv_mask = seen[:, None] & in_dim[None, :]
        k = tl.load(cache_k_ptr + offsets[:, None] + d[None, :], mask=kv_mask, other=0.0)
        v = tl.load(cache_v_ptr + offsets[:, None] + d[None, :], mask=kv_mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        # Rows after the last token attend to the first key, so that no sum is zero.
        scores = tl.where((at_n[None, :] <= (position + m)[:, None]) & seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        top = higher
    out = acc / total[:, None]
    at_out = (first + m)[:, None] * (tl.num_programs(1) * HEAD_DIM) + head * HEAD_DIM + d[None, :]
    tl.store(out_ptr + at_out, out.to(out_ptr.dtype.element_ty), mask=q_mask)


#: Maximum queries of a block in `attend_reading`.
READ_BLOCK = 64


def attend_decoding(
    query: Tensor, key: Tensor, value: Tensor, cache: tuple[Tensor, Tensor], tables: Tensor, rows: Tensor,
    positions: Tensor, splits: int, scale: float,
) -> Tensor:  # fmt: skip
    """Cache the newest key and value of each row, and attend to its whole sequence.

    ``query`` (heads, rows, head_dim), ``key`` and ``value`` (kv_heads, rows, head_dim) with the last dimension in one
    piece; ``cache`` is one layer's, each (kv_heads, pages, page_tokens, head_dim); ``tables`` (slots, pages) int32;
    ``rows`` (rows,) the slot of each; ``positions`` (rows,). Returns (rows, heads, head_dim).
    """
    heads, count, head_dim = query.shape
    kv_heads, _, page, _ = cache[0].shape
    group = heads // kv_heads
    block_d = triton.next_power_of_2(head_dim)
    out = query.new_empty((count, heads, head_dim))
    part = sums = out
    if splits > 1:
        part = torch.empty((count, heads, splits, block_d), dtype=torch.float32, device=query.device)
        sums = torch.empty((count, heads, splits, 2), dtype=torch.float32, device=query.device)
    _decode_kernel[(count, kv_heads, splits)](
        query, key, value, *cache, tables, rows, positions, out, part, sums,
        scale * LOG2_E,
        query.stride(1), query.stride(0), key.stride(1), key.stride(0), value.stride(1), value.stride(0),
        cache[0].stride(0), tables.stride(0),
        GROUP=group, HEAD_DIM=head_dim, BLOCK_G=max(16, triton.next_power_of_2(group)), BLOCK_D=block_d,
        BLOCK_N=64 if block_d <= 128 else 32, PAGE=page, SPLITS=splits, PRECISION=_precision(query),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        _join_kernel[(count * heads,)](part, sums, out, HEAD_DIM=head_dim, BLOCK_D=block_d, SPLITS=splits, num_warps=1)
    return out


def attend_reading(
    query: Tensor, key: Tensor, value: Tensor, cache: tuple[Tensor, Tensor], tables: Tensor, places: Tensor,
    blocks: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """Cache the keys and values of prompt chunks, and attend to each sequence up to each token.

    Shapes as in `attend_decoding`, with tokens for rows; ``places`` (tokens,) is page * page_tokens + offset of each;
    ``blocks`` (blocks, 4) int32 cuts the pieces in blocks of at most `READ_BLOCK` tokens of one sequence: its slot,
    the first token in the pass, how many, the position of the first. Blocks of no tokens do nothing.
    """
    heads, count, head_dim = query.shape
    kv_heads, _, page, _ = cache[0].shape
    block_d = triton.next_power_of_2(head_dim)
    _write_kernel[(count, kv_heads)](
        key, value, *cache, places, key.stride(1), key.stride(0), value.stride(1), value.stride(0),
        cache[0].stride(0), HEAD_DIM=head_dim, BLOCK_D=block_d, num_warps=1,
    )  # fmt: skip
    out = query.new_empty((count, heads, head_dim))
    _read_kernel[(len(blocks), heads)](
        query, *cache, tables, blocks, out,
        scale * LOG2_E,
        query.stride(1), query.stride(0), cache[0].stride(0), tables.stride(0),
        GROUP=heads // kv_heads, HEAD_DIM=head_dim, BLOCK_M=READ_BLOCK, BLOCK_D=block_d,
        BLOCK_N=64 if block_d <= 128 else 32, PAGE=page, PRECISION=_precision(query),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def _precision(query: Tensor) -> str:
    """Return the precision of float32 products; narrower types do not use it."""
    return "ieee" if query.dtype == torch.float32 else "tf32"
