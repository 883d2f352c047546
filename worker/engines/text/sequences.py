"""Sequences of tokens as models read them: in a rectangle, or laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(slots=True)
class Tokens:
    """One sequence: a text, or a pair of them."""

    #: (tokens,)
    ids: Ids
    #: (tokens,): which text of the pair each token is of; None where the model is not told.
    types: Ids | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Rectangle(NamedTuple):
    """Sequences padded to one length, (sequences, length) each."""

    ids: Ids
    #: 1 where there is a token, 0 where there is padding.
    mask: Ids
    types: Ids | None


def as_rectangle(sequences: Sequence[Tokens], length: int, pad_id: int) -> Rectangle:
    """Pad ``sequences``, none of which is longer, to ``length`` tokens."""
    shape = len(sequences), length
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    types = None if sequences[0].types is None else np.zeros(shape, dtype=np.int64)
    for row, one in enumerate(sequences):
        ids[row, : len(one)] = one.ids
        mask[row, : len(one)] = 1
        if types is not None and one.types is not None:
            types[row, : len(one)] = one.types
    return Rectangle(ids, mask, types)


def end_to_end(sequences: Sequence[Tokens], position_pad_id: int | None) -> tuple[Ids, ...]:
    """(tokens,) ids and positions, and (tokens,) types where the model is told; see `restarting_positions`."""
    ids = np.concatenate([one.ids for one in sequences])
    positions = restarting_positions(ids, [len(one) for one in sequences], position_pad_id)
    types = [one.types for one in sequences if one.types is not None]
    return (ids, positions, np.concatenate(types)) if types else (ids, positions)


def restarting_positions(ids: Ids, lengths: Sequence[int], position_pad_id: int | None) -> Ids:
    """(tokens,) position of each token in its own sequence, as the model itself would count it.

    With ``position_pad_id`` that is RoBERTa's rule: from that id + 1, and a padding token (which a text can spell out)
    keeps the id itself and is not counted.
    """
    # No id is negative.
    counted = (ids != (-1 if position_pad_id is None else position_pad_id)).astype(np.int64)
    running = np.cumsum(counted)
    starts = starts_of(lengths)
    before = np.repeat(running[starts] - counted[starts], lengths)
    if position_pad_id is None:
        return running - before - 1
    return (running - before) * counted + position_pad_id


def starts_of(counts: Sequence[int]) -> NDArray[np.intp]:
    """Where each of ``counts`` things begins, laid end to end."""
    return np.cumsum([0, *counts[:-1]])
