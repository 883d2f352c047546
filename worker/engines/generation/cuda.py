"""Passes on CUDA: attention kernels that read the cache in place, and steps captured as CUDA graphs.

The speed of a decode step is limited by reading weights and cache from memory; launching its kernels one by one from
Python takes several times as long. So decode steps are captured for some numbers of rows, prompts for some numbers of
tokens; a step is then one copy of its inputs and one launch. Longer prompts are limited by arithmetic and not captured.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from windrow.worker.engines.device.graph_capture import capture_graph
from windrow.worker.engines.generation.attention import PAGED, attending
from windrow.worker.engines.generation.kernels import READ_BLOCK, attend_decoding, attend_reading
from windrow.worker.engines.generation.kv_cache import PagedCache
from windrow.worker.engines.generation.slots import PromptChunk, Slots, likeliest

log = logging.getLogger(__name__)
#: A graph, and the logits and tokens that each replay writes.
_Captured = tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]
#: Sizes of captured forward passes over prompts, in tokens, and the maximum number of chunks in one of them.
READ_RUNGS = (64, 128, 256, 512, 1024, 2048)
MAX_CHUNKS = 64
#: Number of programs that keeps all multiprocessors busy while they wait for memory.
ENOUGH_PROGRAMS = 264
MAX_SPLITS = 16


def decode_rungs(max_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows for which steps are captured: powers of two up to 32, then every multiple of 32.

    One row is computed as two, because torch compiles separately for a dimension of one.
    """
    rungs = [rung for rung in (2, 4, 8, 16) if rung < max_rows]
    return (*rungs, *range(32, max_rows, 32), max(2, max_rows))


@dataclass(slots=True)
class DecodeKernels:
    """See `windrow.worker.engines.generation.attention.Layout`."""

    cache: PagedCache
    tables: Tensor
    rows: Tensor
    positions: Tensor
    splits: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout.attend`; one token of each row."""
        cache = (self.cache.keys[layer], self.cache.values[layer])
        return attend_decoding(query, key, value, cache, self.tables, self.rows, self.positions, self.splits, scale)


@dataclass(slots=True)
class ReadKernels:
    """See `windrow.worker.engines.generation.attention.Layout`."""

    cache: PagedCache
    tables: Tensor
    places: Tensor
    blocks: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout.attend`; prompt chunks laid end to end."""
        cache = (self.cache.keys[layer], self.cache.values[layer])
        return attend_reading(query, key, value, cache, self.tables, self.places, self.blocks, scale)


class CudaSlots(Slots):
    """`Slots` with captured forward passes. Used by one thread."""

    def __init__(
        self, module: nn.Module, cache: PagedCache, slots: int, context_tokens: int, *, compiled: bool
    ) -> None:
        """Capture the steps, with the model ``compiled`` by torch or not. Raises what the model raises."""
        super().__init__(module, cache, slots, context_tokens)
        config: Any = module.config
        config._attn_implementation = PAGED
        self._call: Callable[..., Tensor] = torch.compile(self._logits, dynamic=True) if compiled else self._logits
        #: A copy of the page tables on the host, to compute where prompts are written.
        self._host_tables = np.full(self.tables.shape, cache.pages, dtype=np.int32)
        self._rungs = decode_rungs(slots)
        self._rows = torch.full((self._rungs[-1],), slots, dtype=torch.int64, device=self.device)
        #: Outputs of all captured decode steps. They are not in the memory that the graphs share, because a pass over
        #: prompts that runs after the decode step would overwrite them.
        self._step_logits: Tensor | None = None
        self._step_tokens = torch.zeros(self._rungs[-1], dtype=torch.int64, device=self.device)
        self._sent_rows: list[int] = []
        self._read_inputs = torch.zeros(
            _Packing.of(READ_RUNGS[-1], MAX_CHUNKS).size, dtype=torch.int32, device=self.device
        )
        self._decodes: dict[int, _Captured] = {}
        self._reads: dict[int, _Captured] = {}
        pool = torch.cuda.graph_pool_handle()
        began_s = time.monotonic()
        with torch.inference_mode():
            # The largest first, so that the smaller ones fit into its memory. Prompts before decode steps: torch
            # compiles once for both if the numbers of tokens and logits differ in the first call.
            for rung in reversed(READ_RUNGS):
                packing = _Packing.of(rung, MAX_CHUNKS)
                inputs = self._read_inputs[: packing.size]
                inputs.copy_(torch.from_numpy(packing.empty(self)))
                self._reads[rung] = capture_graph(partial(self._read_pass, inputs, packing), pool)
            for rung in reversed(self._rungs):
                self._decodes[rung] = capture_graph(partial(self._decode_pass, self._rows[:rung]), pool)
        self.is_captured = True
        log.info("captured %d steps in %.1f s", len(self._decodes) + len(self._reads), time.monotonic() - began_s)

    def set_pages(
        self, emptied: Sequence[int], slots: Sequence[int], places: Sequence[int], pages: Sequence[int]
    ) -> None:
        """See `Slots.set_pages`."""
        super().set_pages(emptied, slots, places, pages)
        if emptied:
            self._host_tables[emptied] = self.cache.pages
        self._host_tables[slots, places] = pages

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `Slots.decode`; the returned tensors are valid until the next step."""
        count = len(rows)
        rung = self._rungs[bisect_left(self._rungs, count)]
        wanted = [*rows, *[self.nobody] * (rung - count)]
        if wanted != self._sent_rows:
            self._rows[:rung].copy_(self.sent(wanted))
            self._sent_rows = wanted
        graph, (logits, tokens) = self._decodes[rung]
        graph.replay()
        return logits[:count], tokens[:count]

    def read(self, chunks: Sequence[PromptChunk]) -> tuple[Tensor, Tensor]:
        """See `Slots.read`; the returned tensors are valid until the next step."""
        count = sum(len(chunk.ids) for chunk in chunks)
        if count > READ_RUNGS[-1] or len(chunks) > MAX_CHUNKS:
            packing = _Packing.of(count, len(chunks))
            inputs = torch.from_numpy(packing.filled(self, chunks)).pin_memory().to(self.device, non_blocking=True)
            return self._read_pass(inputs, packing)
        rung = READ_RUNGS[bisect_left(READ_RUNGS, count)]
        packing = _Packing.of(rung, MAX_CHUNKS)
        host = torch.from_numpy(packing.filled(self, chunks)).pin_memory()
        self._read_inputs[: packing.size].copy_(host, non_blocking=True)
        graph, (logits, tokens) = self._reads[rung]
        graph.replay()
        return logits[: len(chunks)], tokens[: len(chunks)]

    def place_of(self, slot: int, start: int, count: int) -> NDArray[np.int32]:
        """Return the (count,) positions in the cache of a slot's tokens from ``start``: page * page_tokens + offset."""
        at = np.arange(start, start + count)
        size = self.cache.page_tokens
        return self._host_tables[slot, at // size] * size + (at % size).astype(np.int32)

    def _decode_pass(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        positions = self.positions[rows]
        splits = 1
        while splits < MAX_SPLITS and len(rows) * self.cache.keys.shape[1] * splits < ENOUGH_PROGRAMS:
            splits *= 2
        layout = DecodeKernels(self.cache, self.tables, rows, positions, splits)
        with attending(layout):
            every = torch.arange(len(rows), device=self.device)
            logits = self._call(self.tokens[rows].clamp(min=0)[None], positions[None], every)
        if self._step_logits is None:  # in the first call, before the capture
            self._step_logits = torch.empty_like(logits)
        logits = self._step_logits[: len(rows)].copy_(logits)
        tokens = self._step_tokens[: len(rows)].copy_(likeliest(logits))
        self.tokens[rows] = tokens
        self.positions[rows] = torch.where(rows == self.nobody, 0, positions + 1)
        return logits, tokens

    def _read_pass(self, inputs: Tensor, packing: _Packing) -> tuple[Tensor, Tensor]:
        ids, positions, places, blocks, last, slots, ends = packing.parts(inputs)
        layout = ReadKernels(self.cache, self.tables, places, blocks.view(-1, 4))
        with attending(layout):
            logits = self._call(ids.long()[None], positions.long()[None], last.long())
        tokens = likeliest(logits)
        slots = slots.long()
        self.tokens[slots] = tokens
        self.positions[slots] = ends.long()
        return logits, tokens

    def _logits(self, ids: Tensor, positions: Tensor, keep: Tensor) -> Tensor:
        output = self.module(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep)
        return output.logits[0]


@dataclass(frozen=True, slots=True)
class _Packing:
    """The inputs of a forward pass over prompts in one int32 array, which is sent in one copy."""

    tokens: int
    chunks: int
    blocks: int

    @classmethod
    def of(cls, tokens: int, chunks: int) -> _Packing:
        # Each chunk may begin a new block.
        return cls(tokens, chunks, -(-tokens // READ_BLOCK) + chunks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of: ids, positions, places, blocks, last tokens, slots, ends."""
        return (self.tokens,) * 3 + (4 * self.blocks,) + (self.chunks,) * 3

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def parts(self, packed: Any) -> Any:
        """Return views of a packed array or tensor."""
        ends = np.cumsum(self.sizes).tolist()
        return [packed[end - size : end] for end, size in zip(ends, self.sizes, strict=True)]

    def empty(self, slots: CudaSlots) -> NDArray[np.int32]:
        """Return inputs with padding only, which is written to the unused page."""
        packed = np.zeros(self.size, dtype=np.int32)
        _, _, places, _, _, owners, _ = self.parts(packed)
        places[:] = slots.cache.pages * slots.cache.page_tokens
        owners[:] = slots.nobody
        return packed

    def filled(self, slots: CudaSlots, chunks: Sequence[PromptChunk]) -> NDArray[np.int32]:
        """Return inputs with ``chunks`` end to end and padding after them."""
        packed = self.empty(slots)
        ids, positions, places, blocks, last, owners, ends = self.parts(packed)
        blocks = blocks.reshape(-1, 4)
        first = block = 0
        for index, chunk in enumerate(chunks):
            count = len(chunk.ids)
            ids[first : first + count] = chunk.ids
            positions[first : first + count] = np.arange(chunk.start, chunk.start + count)
            places[first : first + count] = slots.place_of(chunk.slot, chunk.start, count)
            for at in range(0, count, READ_BLOCK):
                blocks[block] = (chunk.slot, first + at, min(READ_BLOCK, count - at), chunk.start + at)
                block += 1
            first += count
            last[index], owners[index], ends[index] = first - 1, chunk.slot, chunk.start + count
        return packed
