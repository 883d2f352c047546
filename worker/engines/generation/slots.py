"""What a device keeps of the sequences that run, by slot, and the passes over them.

The token that a sequence was given stays on the device, where the next step reads it: the host learns of it later, and
never holds up a step. The slot after the last is nobody's; rows that only fill up a pass belong to it.
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
#: What a core takes is worth handing over from so many tokens on; one that is decoded counts for several, since all of
#: its sequence is attended to.
PART_TOKENS = 64
DECODED_AS = 8


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Tokens of one sequence's context that a pass reads."""

    slot: int
    #: Those of this piece alone, and the place of the first in the context.
    ids: Sequence[int]
    start: int


class Slots:
    """Tokens, positions and tables of pages of all slots, and eager passes over them. Used by one thread."""

    def __init__(self, module: nn.Module, cache: PagedCache, slots: int, context_tokens: int) -> None:
        """``module`` is a causal language model of transformers; it and ``cache`` are on the same device."""
        self.module = module
        self.cache = cache
        #: Steps are replayed graphs.
        self.is_captured = False
        #: The slot of nobody.
        self.nobody = slots
        self.device = cache.keys.device
        pages = -(-context_tokens // cache.page_tokens)
        #: (slots + 1,) the last token of each and the place it has in the context.
        self.tokens = torch.zeros(slots + 1, dtype=torch.int64, device=self.device)
        self.positions = torch.zeros(slots + 1, dtype=torch.int64, device=self.device)
        #: Pages of each, on the host.
        self._page_counts = np.zeros(slots + 1, dtype=np.int64)
        #: (slots + 1, pages), int32; what a sequence does not have is nobody's page.
        self.tables = torch.full((slots + 1, pages), cache.pages, dtype=torch.int32, device=self.device)

    def set_pages(
        self, emptied: Sequence[int], slots: Sequence[int], places: Sequence[int], pages: Sequence[int]
    ) -> None:
        """The slots ``emptied`` have no pages now; then page ``places[i]`` of slot ``slots[i]`` is ``pages[i]``."""
        if emptied:
            # Not by assignment: torch then sends the number from memory that makes the host wait for the device.
            self.tables.index_fill_(0, self.sent(emptied), self.cache.pages)
            self._page_counts[emptied] = 0
        np.maximum.at(self._page_counts, slots, np.asarray(places) + 1)
        cells = self.sent([slots, places, pages])
        self.tables[cells[0], cells[1]] = cells[2].to(torch.int32)

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One more token for each of the slots ``rows``.

        Returns (rows, vocabulary) logits and (rows,) tokens, -1 where the logits held NaN or infinity.
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

    def read(self, pieces: Sequence[PromptChunk]) -> tuple[Tensor, Tensor]:
        """Read ``pieces``; the token that follows each becomes the last of its slot.

        Returns (pieces, vocabulary) logits of the last token of each, and the (pieces,) tokens that follow.
        """
        logits = self._in_parts(self._read, pieces, [len(piece.ids) for piece in pieces])
        tokens = likeliest(logits)
        slots = self.sent([piece.slot for piece in pieces])
        self.tokens[slots] = tokens
        self.positions[slots] = self.sent([piece.start + len(piece.ids) for piece in pieces])
        return logits, tokens

    def _read(self, pieces: Sequence[PromptChunk]) -> Tensor:
        lengths = [len(piece.ids) for piece in pieces]
        ends = np.cumsum(lengths)
        ids = np.concatenate([np.asarray(piece.ids, dtype=np.int64) for piece in pieces])
        positions = np.concatenate([np.arange(piece.start, piece.start + len(piece.ids)) for piece in pieces])
        slots = self.sent([piece.slot for piece in pieces])
        layout = ReadLayout(self.cache, self.tables[slots].long(), [piece.start for piece in pieces], lengths)
        return self.forward(self.sent(ids), self.sent(positions), layout, self.sent(ends - 1))

    def _in_parts(self, run: Callable[[Sequence[T]], Tensor], items: Sequence[T], tokens: Sequence[int]) -> Tensor:
        """``run`` over all of ``items``: at once on a device, on the CPU a part a core where that is worth it."""
        if self.device.type != "cpu":
            return run(items)
        parts = max(1, min(cores(), len(items), sum(tokens) // PART_TOKENS))
        ends = [len(items) * part // parts for part in range(parts + 1)]
        pieces = [partial(run, items[begin:end]) for begin, end in pairwise(ends)]
        return start_on_cores(lambda: pieces).result()

    def forward(self, ids: Tensor, positions: Tensor, layout: Layout, keep: Tensor | int = 0) -> Tensor:
        """(tokens,) ids and positions -> logits of all, or of the tokens ``keep``."""
        config: Any = self.module.config
        if config._attn_implementation != PAGED:  # weights are shared; another entry may have set another
            config._attn_implementation = PAGED
        with attending(layout):
            made = self.module(input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=keep)
        return made.logits[0]

    def sent(self, values: Any) -> Tensor:
        """Integers from the host, on the device, without waiting for it."""
        tensor = torch.from_numpy(np.asarray(values, dtype=np.int64))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def to_host(self, values: Tensor) -> Tensor:
        """A copy in host memory; on CUDA it is there once what was started before is over."""
        return values.to("cpu", non_blocking=True) if self.device.type == "cuda" else values.clone()

    def mark(self) -> torch.cuda.Event | None:
        """A moment on a CUDA device; None on others, whose work is over when a call returns."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def likeliest(logits: Tensor) -> Tensor:
    """(rows, vocabulary) -> the largest of each row; -1 for rows with NaN or infinity."""
    top, tokens = logits.max(-1)
    return torch.where(torch.isfinite(top), tokens, -1)
