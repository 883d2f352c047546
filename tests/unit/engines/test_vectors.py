"""Vectors as callers ask for them, and what 8 bits cost."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windrow.scheduler.tasks.embed import EmbedParameters
from windrow.worker.engines.text.vectors import quantize, vector_output

ROW = np.array([3.0, -4.0, 12.0], dtype=np.float32)
NUMBERS = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize(("normalizes", "expected"), [(True, [0.6, -0.8]), (False, [3.0, -4.0])])
def test_a_cut_vector_has_length_1_again_where_the_model_normalises(normalizes: bool, expected: list[float]) -> None:
    cut = vector_output(ROW, EmbedParameters(dimensions=2), normalizes)
    assert cut["embedding"] == pytest.approx(expected)
    assert ROW.tolist() == [3, -4, 12]


def test_a_vector_that_is_not_cut_is_left_alone() -> None:
    assert vector_output(ROW, EmbedParameters(dimensions=3), True)["embedding"] is ROW


def test_a_cut_vector_of_zeros_stays_one() -> None:
    cut = vector_output(np.array([0, 0, 1], dtype=np.float32), EmbedParameters(dimensions=2), True)
    assert cut["embedding"].tolist() == [0, 0]


def test_base64_is_little_endian_float32() -> None:
    coded = vector_output(ROW, EmbedParameters(encoding_format="base64"), False)
    assert base64.b64decode(coded["embedding"]) == ROW.astype("<f4").tobytes()


@given(st.lists(NUMBERS, min_size=1, max_size=64))
@example([float(np.finfo(np.float32).tiny)])
def test_codes_times_the_scale_are_the_vector_within_half_a_scale(numbers: list[float]) -> None:
    row = np.array(numbers, dtype=np.float32)
    codes, scale = quantize(row)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    # Beside rounding to a code there is that of float32, and of numbers too small for it.
    assert np.abs(codes * scale - row).max() <= scale * 0.50001 + 1e-44


def test_a_vector_and_its_opposite_are_coded_alike() -> None:
    codes, scale = quantize(ROW)
    opposite, same = quantize(-ROW)
    assert (codes.tolist(), scale) == ((-opposite).tolist(), same)
    assert codes.tolist() == [32, -42, 127]


def test_eight_bits_turn_a_vector_of_384_numbers_by_less_than_a_degree() -> None:
    draw = np.random.default_rng(0)
    for row in draw.normal(size=(200, 384)).astype(np.float32):
        codes, scale = quantize(row)
        decoded = codes * np.float32(scale)
        cosine = float(row @ decoded / np.linalg.norm(row) / np.linalg.norm(decoded))
        assert cosine > math.cos(math.radians(1))
        assert np.linalg.norm(decoded - row) / np.linalg.norm(row) < 0.015


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_not_coded(bad: float) -> None:
    codes, scale = quantize(np.array([1.0, bad], dtype=np.float32))
    assert (codes.tolist(), scale) == ([0, 0], 0.0)
