"""How a pass is cut over the cores of a CPU."""

from __future__ import annotations

from collections.abc import Sequence

#: Activations of about this many tokens stay in a core's cache.
PIECE_TOKENS = 1024


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
