"""The state of running sequences on the device, by slot, and the forward passes over them.

The token of a step stays on the device for the next step. The host receives it later and never delays a
step. The slot after the last one is unused by sequences: padding rows of a forward pass belong to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from windrow.worker.engines.device.cores import cores, start_on_cores
from windrow.worker.engines.generation.attention import PAGED, DecodeLayout, Layout, ReadLayout, attending
from windrow.worker.engines.generation.kv_cache import PagedCache

T = TypeVar("T")
#: Minimum tokens for which it pays to use one more core. A decoded token counts for several, because it attends to its
#: whole sequence.
PART_TOKENS = 64
DECODED_AS = 8


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Consecutive prompt tokens of one sequence that a forward pass reads."""

    slot: int
    #: The tokens of this chunk, and the position of the first one in the context.
    ids: Sequence[int]
    start: int


class Slots:
    """Tokens, positions and page tables of all slots, and eager forward passes over them. Used by one thread."""

    def __init__(self, module: nn.Module, cache: PagedCache, slots: int, context_tokens: int) -> None:
        """Allocate the state. ``module`` is a causal language model of transformers, on the device of ``cache``."""
        self.module = module
        self.cache = cache
        #: Whether steps replay captured CUDA graphs.
        self.is_captured = False
        #: The unused slot, for padding rows.
        self.nobody = slots
        self.device = cache.keys.device
        pages = -(-context_tokens // cache.page_tokens)
        #: (slots + 1,) the last token of each slot, and its position in the context.
        self.tokens = torch.zeros(slots + 1, dtype=torch.int64, device=self.device)
        self.positions = torch.zeros(slots + 1, dtype=torch.int64, device=self.device)
        #: Number of pages of each slot, on the host.
        self._page_counts = np.zeros(slots + 1, dtype=np.int64)
        #: (slots + 1, pages), int32; entries without a page have the number of the unused page.
        self.tables = torch.full((slots + 1, pages), cache.pages, dtype=torch.int32, device=self.device)

    def set_pages(
        self, emptied: Sequence[int], slots: Sequence[int], places: Sequence[int], pages: Sequence[int]
    ) -> None:
        """Clear the page tables of ``emptied`` slots; then set page ``places[i]`` of ``slots[i]`` to ``pages[i]``."""
        if emptied:
            # An assignment would send the number from pageable memory, which blocks the host.
            self.tables.index_fill_(0, self.sent(emptied), self.cache.pages)
            self._page_counts[emptied] = 0
        np.maximum.at(self._page_counts, slots, np.asarray(places) + 1)
        cells = self.sent([slots, places, pages])
        self.tables[cells[0], cells[1]] = cells[2].to(torch.int32)

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Compute one more token for each of the slots ``rows``.

        Returns (rows, vocabulary) logits and (rows,) tokens; a token is -1 if its logits contain NaN or infinity.
        """
        logits = self._in_parts(self._decoded, rows, [DECODED_AS] * len(rows))
        tokens = likeliest(logits)
        slots = self.sent(rows)
        self.tokens[slots] = tokens
        self.positions[slots] = torch.where(slots == self.nobody, 0, self.positions[slots] + 1)
        return logits, tokens

    def _decoded(self, rows: Sequence[int]) -> Tensor:
        slots = self.sent(rows)
        positions = self.positions[slots]
        longest = max(1, int(self._page_counts[rows].max())) * self.cache.page_tokens - 1
        layout = DecodeLayout(self.cache, self.tables[slots].long(), positions, longest)
        return self.forward(self.tokens[slots].clamp(min=0), positions, layout)

    def read(self, chunks: Sequence[PromptChunk]) -> tuple[Tensor, Tensor]:
        """Prefill ``chunks``; the token that follows each chunk becomes the last token of its slot.

        Returns (chunks, vocabulary) logits of the last token of each chunk, and the (chunks,) tokens that follow.
        """
        logits = self._in_parts(self._read, chunks, [len(chunk.ids) for chunk in chunks])
        tokens = likeliest(logits)
        slots = self.sent([chunk.slot for chunk in chunks])
        self.tokens[slots] = tokens
        self.positions[slots] = self.sent([chunk.start + len(chunk.ids) for chunk in chunks])
        return logits, tokens

    def _read(self, chunks: Sequence[PromptChunk]) -> Tensor:
        lengths = [len(chunk.ids) for chunk in chunks]
        ends = np.cumsum(lengths)
        ids = np.concatenate([np.asarray(chunk.ids, dtype=np.int64) for chunk in chunks])
        positions = np.concatenate([np.arange(chunk.start, chunk.start + len(chunk.ids)) for chunk in chunks])
        slots = self.sent([chunk.slot for chunk in chunks])
        layout = ReadLayout(self.cache, self.tables[slots].long(), [chunk.start for chunk in chunks], lengths)
        return self.forward(self.sent(ids), self.sent(positions), layout, self.sent(ends - 1))

    def _in_parts(self, run: Callable[[Sequence[T]], Tensor], items: Sequence[T], tokens: Sequence[int]) -> Tensor:
        """Call ``run`` with all ``items`` at once, or on a CPU with one part per core if there are enough tokens."""
        if self.device.type != "cpu":
            return run(items)
        parts = max(1, min(cores(), len(items), sum(tokens) // PART_TOKENS))
        ends = [len(items) * part // parts for part in range(parts + 1)]
        calls = [partial(run, items[begin:end]) for begin, end in pairwise(ends)]
        return start_on_cores(lambda: calls).result()

    def forward(self, ids: Tensor, positions: Tensor, layout: Layout, keep: Tensor | int = 0) -> Tensor:
        """Return the logits of all (tokens,) ``ids`` at ``positions``, or of the tokens ``keep``."""
        config: Any = self.module.config
        if config._attn_implementation != PAGED:  # another model may share the module with another attention
            config._attn_implementation = PAGED
        with attending(layout):
            output = self.module(
                input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=keep
            )
        return output.logits[0]

    def sent(self, values: Any) -> Tensor:
        """Copy integers from the host to the device without waiting for it."""
        tensor = torch.from_numpy(np.asarray(values, dtype=np.int64))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def to_host(self, values: Tensor) -> Tensor:
        """Return a copy in host memory; on CUDA it is complete after the work that was started before."""
        return values.to("cpu", non_blocking=True) if self.device.type == "cuda" else values.clone()

    def mark(self) -> torch.cuda.Event | None:
        """Record a CUDA event; return None on other devices, whose work is complete when a call returns."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def likeliest(logits: Tensor) -> Tensor:
    """Return the token with the largest of (rows, vocabulary) logits per row; -1 for NaN or infinity."""
    top, tokens = logits.max(-1)
    return torch.where(torch.isfinite(top), tokens, -1)
