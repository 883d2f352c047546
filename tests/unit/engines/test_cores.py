"""Batches are split evenly over CPU cores, and the next batch starts as soon as a core is idle."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from windrow.scheduler.core.core_split import PIECE_TOKENS, cut_evenly
from windrow.worker.engines.device.cores import BatchPart, cores, start_on_cores, wait_for_cores


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(1, 8))
def test_every_text_is_in_one_part_and_in_order(tokens: list[int], cores: int) -> None:
    parts = [tokens[part] for part in cut_evenly(tokens, cores)]
    assert [length for part in parts for length in part] == tokens
    assert all(parts)


def test_texts_of_one_length_are_split_evenly() -> None:
    assert [part.stop - part.start for part in cut_evenly([100] * 8, 2)] == [4, 4]
    assert [part.stop - part.start for part in cut_evenly([PIECE_TOKENS] * 4, 2)] == [1, 1, 1, 1]


def test_one_text_is_one_part() -> None:
    assert cut_evenly([5], 4) == [slice(0, 1)]


def test_results_are_in_order_and_exceptions_are_raised() -> None:
    result = start_on_cores(lambda: [partial(vector, number * 2) for number in range(20)]).result()
    assert result.tolist() == [2 * number for number in range(20)]
    started = start_on_cores(lambda: [partial(inverse, number) for number in (1, 0, 2)])
    with pytest.raises(ZeroDivisionError):
        started.result()


def test_a_single_part_runs_and_raises_in_the_calling_thread() -> None:
    ran_in: list[threading.Thread] = []

    def record_thread() -> Tensor:
        ran_in.append(threading.current_thread())
        return vector(1)

    assert start_on_cores(lambda: [record_thread]).result().tolist() == [1]
    assert ran_in == [threading.current_thread()]
    with pytest.raises(ZeroDivisionError):
        start_on_cores(lambda: [partial(inverse, 0)])


def test_the_next_batch_starts_while_parts_of_one_are_still_running() -> None:
    may_end = threading.Event()

    def blocked() -> Tensor:
        may_end.wait(20)
        return vector(1)

    # One core is left, and the other parts run there one after the other.
    parts: list[BatchPart] = [blocked] * (cores() - 1) + [partial(vector, 2), partial(vector, 3)]
    first = start_on_cores(lambda: parts)
    second = start_on_cores(lambda: [partial(vector, 4), partial(vector, 5)])
    assert second.result().tolist() == [4, 5]
    assert cores() == 1 or not may_end.is_set()
    may_end.set()
    assert first.result().tolist() == [1] * (cores() - 1) + [2, 3]
    assert second.began_s <= second.ended_s
    assert cores() == 1 or second.ended_s <= first.ended_s


def test_a_batch_that_changes_shared_state_waits_for_the_others() -> None:
    may_end, ended = threading.Event(), []

    def blocked() -> Tensor:
        may_end.wait(20)
        ended.append(1)
        return vector(1)

    start_on_cores(lambda: [blocked] * (cores() - 1) + [partial(vector, 2), partial(vector, 3)])

    def split() -> list[BatchPart]:
        may_end.set()
        wait_for_cores()
        return [partial(vector, len(ended))]

    assert start_on_cores(split).result().tolist() == [cores() - 1]


def vector(value: float) -> Tensor:
    return torch.tensor([value])


def inverse(value: float) -> Tensor:
    return vector(1 / value)
