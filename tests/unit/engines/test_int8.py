"""Linear layers in 8-bit integers are accurate, treat each token by itself, and are used only if faster."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from windrow.errors import ModelUnusable
from windrow.worker.engines.device.int8 import (
    BLOCK_TOKENS,
    INT8_SPEEDUP,
    INT8_TOLERANCE,
    Int8Linear,
    reason_against_int8,
)
from windrow.worker.engines.device.weights import pick_dtype


def layers(inputs: int, outputs: int, bias: bool = True) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(inputs * 1000 + outputs)
    linear = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    return linear, Int8Linear(linear)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.booleans(), st.floats(-8, 8), st.floats(1e-3, 1e3)
)
def test_a_layer_is_close_to_float32(
    inputs: int, outputs: int, tokens: int, bias: bool, middle: float, width: float
) -> None:
    linear, rounded = layers(inputs, outputs, bias)
    torch.manual_seed(0)
    activations = (torch.randn(2, tokens, inputs) + middle) * width
    exact = linear(activations)
    assert rounded(activations).shape == exact.shape
    # Per product: half a step of 1/127 of the largest weight, and of 1/254 of the range of the activations.
    largest = activations.abs().amax(-1, keepdim=True)
    spread = activations.amax(-1, keepdim=True) - activations.amin(-1, keepdim=True)
    weights = linear.weight.abs()
    bound = inputs * (largest * weights.amax(1) / 254 + spread * (weights.amax(1) + weights.amax(1) / 254) / 508)
    assert (rounded(activations) - exact <= bound + 1e-5 * (1 + exact.abs() + largest * inputs)).all()


def test_the_error_of_ordinary_activations_is_below_a_hundredth() -> None:
    linear, rounded = layers(384, 1536)
    torch.manual_seed(0)
    activations = torch.randn(50, 384)
    assert error(rounded(activations), linear(activations)) < 1e-2
    # One-sided activations, as after an activation function, use the whole range too.
    one_sided = torch.nn.functional.gelu(activations)
    assert error(rounded(one_sided), linear(one_sided)) < 1.3e-2


def test_the_output_of_a_token_does_not_depend_on_the_others() -> None:
    _, rounded = layers(48, 32)
    torch.manual_seed(0)
    tokens = torch.randn(2 * BLOCK_TOKENS + 3, 48) * torch.logspace(-3, 3, 2 * BLOCK_TOKENS + 3)[:, None]
    together = rounded(tokens)
    for index in (0, 1, BLOCK_TOKENS - 1, BLOCK_TOKENS, len(tokens) - 1):
        assert torch.equal(together[index], rounded(tokens[index : index + 1])[0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_token_with_nan_or_infinity_does_not_change_the_others(value: float) -> None:
    _, rounded = layers(16, 8)
    torch.manual_seed(0)
    tokens = torch.randn(4, 16)
    exact = rounded(tokens)
    tokens[2, 5] = value
    found = rounded(tokens)
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 1, 3]], exact[[0, 1, 3]])


@pytest.mark.parametrize("number", [0.0, 3.0, -1e-15, 1e15])
def test_a_token_of_equal_numbers_is_accurate(number: float) -> None:
    linear, rounded = layers(16, 8)
    tokens = torch.full((1, 16), number)
    assert error(rounded(tokens), linear(tokens)) < 1e-2


def test_weights_of_zero_stay_zero() -> None:
    linear = nn.Linear(4, 2, bias=False).requires_grad_(False)
    linear.weight.zero_()
    assert torch.equal(Int8Linear(linear)(torch.randn(3, 4)), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("relative_error", "int8_s", "float32_s", "expected"),
    [
        (INT8_TOLERANCE, 1.0, INT8_SPEEDUP, None),
        (0.0, 1.0, 2.0, None),
        (1.01 * INT8_TOLERANCE, 1.0, 2.0, "more than 0.1"),
        (math.nan, 1.0, 2.0, "more than 0.1"),
        (0.0, 0.02, 0.021, "20 ms against 21 ms"),
        (0.0, 3.0, 2.0, "not faster"),
    ],
)
def test_int8_is_served_only_if_it_is_accurate_enough_and_faster(
    relative_error: float, int8_s: float, float32_s: float, expected: str | None
) -> None:
    reason = reason_against_int8(relative_error, int8_s, float32_s)
    assert reason is None if expected is None else expected in (reason or "")


def test_int8_on_cuda_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(ModelUnusable, match=r"int8 runs on a CPU; on cuda set auto, bfloat16"):
        pick_dtype("int8", torch.device("cuda"))
    assert pick_dtype("int8", torch.device("cpu")) == torch.int8
