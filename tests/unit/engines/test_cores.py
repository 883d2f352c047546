"""How a pass is cut for the cores of a CPU, and when the next one may start."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from windrow.scheduler.core.core_split import PIECE_TOKENS, cut_evenly
from windrow.worker.engines.device.cores import Piece, cores, finish_on_cores, start_on_cores


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
    rows = start_on_cores(lambda: [partial(row, number * 2) for number in range(20)]).rows()
    assert rows.tolist() == [2 * number for number in range(20)]
    started = start_on_cores(lambda: [partial(inverse, number) for number in (1, 0, 2)])
    with pytest.raises(ZeroDivisionError):
        started.rows()


def test_a_single_piece_runs_in_the_thread_that_starts_it_and_raises_there() -> None:
    ran_in: list[threading.Thread] = []

    def note() -> Tensor:
        ran_in.append(threading.current_thread())
        return row(1)

    assert start_on_cores(lambda: [note]).rows().tolist() == [1]
    assert ran_in == [threading.current_thread()]
    with pytest.raises(ZeroDivisionError):
        start_on_cores(lambda: [partial(inverse, 0)])


def test_the_next_pass_starts_while_the_last_pieces_of_one_still_run() -> None:
    may_end = threading.Event()

    def held_up() -> Tensor:
        may_end.wait(20)
        return row(1)

    # A core is left over, and one piece after the other runs there.
    pieces: list[Piece] = [held_up] * (cores() - 1) + [partial(row, 2), partial(row, 3)]
    first = start_on_cores(lambda: pieces)
    second = start_on_cores(lambda: [partial(row, 4), partial(row, 5)])
    assert second.rows().tolist() == [4, 5]
    assert cores() == 1 or not may_end.is_set()
    may_end.set()
    assert first.rows().tolist() == [1] * (cores() - 1) + [2, 3]
    assert second.began_s <= second.ended_s
    assert cores() == 1 or second.ended_s <= first.ended_s


def test_a_pass_that_changes_what_others_use_waits_for_them() -> None:
    may_end, ended = threading.Event(), []

    def held_up() -> Tensor:
        may_end.wait(20)
        ended.append(1)
        return row(1)

    start_on_cores(lambda: [held_up] * (cores() - 1) + [partial(row, 2), partial(row, 3)])

    def cut() -> list[Piece]:
        may_end.set()
        finish_on_cores()
        return [partial(row, len(ended))]

    assert start_on_cores(cut).rows().tolist() == [cores() - 1]


def row(value: float) -> Tensor:
    return torch.tensor([value])


def inverse(value: float) -> Tensor:
    return row(1 / value)
