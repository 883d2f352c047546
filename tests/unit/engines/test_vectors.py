"""Embeddings are shortened and encoded as requested; 8-bit codes are accurate."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windrow.scheduler.tasks.embed import EmbedParameters
from windrow.worker.engines.text.embed import quantize, vector_output

VECTOR = np.array([3.0, -4.0, 12.0], dtype=np.float32)
NUMBERS = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize(("normalizes", "expected"), [(True, [0.6, -0.8]), (False, [3.0, -4.0])])
def test_a_shortened_vector_is_normalized_if_the_model_normalizes(normalizes: bool, expected: list[float]) -> None:
    cut = vector_output(VECTOR, EmbedParameters(dimensions=2), normalizes)
    assert cut["embedding"] == pytest.approx(expected)
    assert VECTOR.tolist() == [3, -4, 12]


def test_a_vector_of_full_width_is_returned_unchanged() -> None:
    assert vector_output(VECTOR, EmbedParameters(dimensions=3), True)["embedding"] is VECTOR


def test_a_shortened_vector_of_zeros_stays_zero() -> None:
    cut = vector_output(np.array([0, 0, 1], dtype=np.float32), EmbedParameters(dimensions=2), True)
    assert cut["embedding"].tolist() == [0, 0]


def test_base64_is_little_endian_float32() -> None:
    coded = vector_output(VECTOR, EmbedParameters(encoding_format="base64"), False)
    assert base64.b64decode(coded["embedding"]) == VECTOR.astype("<f4").tobytes()


@given(st.lists(NUMBERS, min_size=1, max_size=64))
@example([float(np.finfo(np.float32).tiny)])
def test_codes_times_the_scale_are_the_vector_within_half_a_scale(numbers: list[float]) -> None:
    vector = np.array(numbers, dtype=np.float32)
    codes, scale = quantize(vector)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    # Tolerances for rounding to float32 and for numbers that are too small for it.
    assert np.abs(codes * scale - vector).max() <= scale * 0.50001 + 1e-44


def test_the_codes_of_a_vector_and_its_negative_differ_in_sign_only() -> None:
    codes, scale = quantize(VECTOR)
    opposite, same = quantize(-VECTOR)
    assert (codes.tolist(), scale) == ((-opposite).tolist(), same)
    assert codes.tolist() == [32, -42, 127]


def test_eight_bits_rotate_a_vector_of_384_numbers_by_less_than_a_degree() -> None:
    draw = np.random.default_rng(0)
    for vector in draw.normal(size=(200, 384)).astype(np.float32):
        codes, scale = quantize(vector)
        decoded = codes * np.float32(scale)
        cosine = float(vector @ decoded / np.linalg.norm(vector) / np.linalg.norm(decoded))
        assert cosine > math.cos(math.radians(1))
        assert np.linalg.norm(decoded - vector) / np.linalg.norm(vector) < 0.015


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_vector_with_nan_or_infinity_has_scale_0(bad: float) -> None:
    codes, scale = quantize(np.array([1.0, bad], dtype=np.float32))
    assert (codes.tolist(), scale) == ([0, 0], 0.0)
