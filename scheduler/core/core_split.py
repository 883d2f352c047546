"""Split a batch over the cores of a CPU."""

from __future__ import annotations

from collections.abc import Sequence

#: The activations of about this many tokens fit into the cache of one core.
PIECE_TOKENS = 1024


def cut_evenly(tokens: Sequence[int], cores: int) -> list[slice]:
    """Split a batch, in order, into pieces of about equal ``tokens``.

    A piece has at most about `PIECE_TOKENS` tokens unless a single text is longer, and the number of pieces is a
    multiple of ``cores`` if there are enough texts.
    """
    total = sum(tokens)
    rounds = -(-total // (PIECE_TOKENS * cores))
    count = min(len(tokens), rounds * cores)
    slices: list[slice] = []
    start = done = 0
    for index, length in enumerate(tokens):
        # Cut where the sum is closest to the piece's equal share; the last piece takes the rest.
        share = total * (len(slices) + 1) / count
        if index > start and len(slices) < count - 1 and done + length / 2 > share:
            slices.append(slice(start, index))
            start = index
        done += length
    return [*slices, slice(start, len(tokens))]
