"""One pass on several CPU cores: a piece of the batch a thread, each with torch's own threads switched off.

torch would split every operation over the cores instead, and wait for the slowest, spinning. Beside other processes
that collapses (measured in docs/performance.md); a piece that is held up holds up nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
#: Activations of about this many tokens stay in a core's cache.
PIECE_TOKENS = 1024


@cache
def cores() -> int:
    """Cores of this process, as `torch.set_num_threads` said before the first pass."""
    return torch.get_num_threads()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "core", initializer=partial(torch.set_num_threads, 1))


def run_on_cores(run: Callable[[T], Tensor], pieces: Sequence[T]) -> list[Tensor]:
    """``run`` of each piece, in order. Raises what a piece raised."""

    def without_gradients(piece: T) -> Tensor:
        with torch.inference_mode():  # a setting of each thread
            return run(piece)

    if len(pieces) == 1:  # not worth handing over
        cores()  # is read before it is changed
        torch.set_num_threads(1)
        return [without_gradients(pieces[0])]
    return list(_threads().map(without_gradients, pieces))


def cut_evenly(tokens: Sequence[int], cores: int) -> list[slice]:
    """Cut a batch, in order, into pieces of about equal ``tokens``: at most `PIECE_TOKENS` each where the texts allow
    it, and as many for one core as for another.
    """
    total = sum(tokens)
    rounds = -(-total // (PIECE_TOKENS * cores))
    count = min(len(tokens), rounds * cores)
    slices: list[slice] = []
    start = done = 0
    for index, length in enumerate(tokens):
        # The nearest end to the piece's fair share; the last piece takes what is left.
        fair = total * (len(slices) + 1) / count
        if index > start and len(slices) < count - 1 and done + length / 2 > fair:
            slices.append(slice(start, index))
            start = index
        done += length
    return [*slices, slice(start, len(tokens))]
