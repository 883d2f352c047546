"""Pooling of packed batches."""

import pytest
import torch

from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.text.pooling import PACKED_POOLING

LENGTHS = [1, 3000, 7]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_mean_of_a_long_sequence_is_exact_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    # Far from zero: a running sum in bfloat16 stops growing once it is 256 times the next summand.
    hidden = (torch.randn(sum(LENGTHS), 4) + 3).to(dtype)
    means = PACKED_POOLING["mean"](hidden, PackedLayout.of(LENGTHS, torch.device("cpu")))
    right = torch.stack([part.double().mean(0) for part in hidden.split(LENGTHS)])
    assert torch.allclose(means.double(), right, rtol=1e-5)
