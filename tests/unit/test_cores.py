"""How a pass is cut for the cores of a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.cores import PIECE_TOKENS, cut_evenly, run_on_cores


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(1, 8))
def test_every_text_is_in_one_piece_and_in_order(tokens: list[int], cores: int) -> None:
    pieces = [tokens[part] for part in cut_evenly(tokens, cores)]
    assert [length for piece in pieces for length in piece] == tokens
    assert all(pieces)


def test_equal_texts_are_shared_out_equally() -> None:
    assert [part.stop - part.start for part in cut_evenly([100] * 8, 2)] == [4, 4]
    assert [part.stop - part.start for part in cut_evenly([PIECE_TOKENS] * 4, 2)] == [1, 1, 1, 1]


def test_one_text_is_one_piece() -> None:
    assert cut_evenly([5], 4) == [slice(0, 1)]


def test_pieces_come_back_in_order_and_a_raise_is_passed_on() -> None:
    answers = run_on_cores(lambda piece: torch.tensor([piece * 2]), list(range(20)))
    assert torch.cat(answers).tolist() == [2 * number for number in range(20)]
    with pytest.raises(ZeroDivisionError):
        run_on_cores(lambda piece: torch.tensor([1 / piece]), [1, 0, 2])
