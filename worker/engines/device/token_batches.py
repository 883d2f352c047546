"""Token sequences, and the arrays of a padded or a packed batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(slots=True)
class Tokens:
    """One sequence of tokens: a text or a pair of texts."""

    #: (tokens,)
    ids: Ids
    #: (tokens,) token types: 0 in the first text of the pair, 1 in the second. None if the model does not use them.
    types: Ids | None = None

    def __len__(self) -> int:
        return len(self.ids)


class PaddedBatch(NamedTuple):
    """Sequences padded to one length; each array is (sequences, length)."""

    ids: Ids
    #: 1 for a token, 0 for padding.
    mask: Ids
    types: Ids | None


def pad_batch(sequences: Sequence[Tokens], length: int, pad_id: int) -> PaddedBatch:
    """Pad ``sequences`` to ``length`` tokens, which must be at least the length of the longest one."""
    shape = len(sequences), length
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    types = None if sequences[0].types is None else np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        mask[row, : len(sequence)] = 1
        if types is not None and sequence.types is not None:
            types[row, : len(sequence)] = sequence.types
    return PaddedBatch(ids, mask, types)


def pack_batch(sequences: Sequence[Tokens], position_pad_id: int | None) -> tuple[Ids, ...]:
    """Concatenate ``sequences``; return (tokens,) ids, positions and, if the model uses them, types.

    For ``position_pad_id`` see `packed_positions`.
    """
    ids = np.concatenate([sequence.ids for sequence in sequences])
    positions = packed_positions(ids, [len(sequence) for sequence in sequences], position_pad_id)
    types = [sequence.types for sequence in sequences if sequence.types is not None]
    return (ids, positions, np.concatenate(types)) if types else (ids, positions)


def packed_positions(ids: Ids, lengths: Sequence[int], position_pad_id: int | None) -> Ids:
    """Return the (tokens,) position of each token within its own sequence, as the model itself would count it.

    With ``position_pad_id``, positions follow the rule of RoBERTa: they start at that id + 1; a padding token, which a
    text can spell out, has the id itself as its position and is not counted.
    """
    # Ids are not negative, so that -1 never occurs.
    counted = (ids != (-1 if position_pad_id is None else position_pad_id)).astype(np.int64)
    running = np.cumsum(counted)
    starts = start_offsets(lengths)
    before = np.repeat(running[starts] - counted[starts], lengths)
    if position_pad_id is None:
        return running - before - 1
    return (running - before) * counted + position_pad_id


def start_offsets(counts: Sequence[int]) -> NDArray[np.intp]:
    """Return the offset at which each group starts if groups of these sizes are concatenated."""
    return np.cumsum([0, *counts[:-1]])
