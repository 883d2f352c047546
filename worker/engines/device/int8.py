"""Linear layers in 8-bit integers, for CPUs: a quarter of the memory, and matrix products several times faster.

Weights are quantized at load, symmetrically, with one scale per output (Jacob et al. 2018, arXiv:1712.05877).
Activations are quantized in each call, with a scale and a midpoint per token, so that the output for a text does not
depend on the other texts of its batch. torch's own `quantize_dynamic` has one scale per batch, and is deprecated.

Two kernels that differ in the seventh digit may round the same number up and down. Over the layers this grows to the
size of the quantization error, so strategies agree with each other only as well as int8 agrees with float32.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from windrow.worker.engines.device.weights import Weights, load_weights

#: Largest accepted relative error against float32; for vectors of equal length, a cosine of 0.995.
INT8_TOLERANCE = 0.1
#: Smallest accepted speed-up over float32, below which int8 is not worth its error.
INT8_SPEEDUP = 1.1
#: Number of tokens whose products fit into the cache of a core.
BLOCK_TOKENS = 256


class Int8Linear(nn.Module):
    """A replacement of ``nn.Linear`` that multiplies 8-bit integers."""

    weight: Tensor
    scale: Tensor
    sums: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Quantize the weights of ``linear``, which must be float32 on the CPU."""
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scale[:, None]).round_()
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scale", scale)
        #: Sum of each output's weights, to be multiplied with the midpoint of the activations.
        self.register_buffer("sums", rounded.sum(1) * scale)
        self.register_buffer("bias", torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., outputs) float32 for (..., inputs) float32."""
        tokens = inputs.reshape(-1, inputs.shape[-1])
        outputs = tokens.new_empty(len(tokens), len(self.weight))
        for block, out in zip(tokens.split(BLOCK_TOKENS), outputs.split(BLOCK_TOKENS), strict=True):
            low, high = block.amin(1, keepdim=True), block.amax(1, keepdim=True)  # aminmax is 15 times slower
            midpoint = (low + high).mul_(0.5)
            # The range of a token of equal numbers is 0; its midpoint alone is exact.
            step = (high - low).div_(254).clamp_(min=torch.finfo(torch.float32).tiny)
            rounded = (block - midpoint).div_(step).round_().to(torch.int8)
            out.copy_(torch._int_mm(rounded, self.weight.t())).mul_(step)
            torch.addcmul(self.bias, out, self.scale, out=out).addcmul_(midpoint, self.sums)
        return outputs.view(*inputs.shape[:-1], len(self.weight))


@cache
def load_int8(folder: Path, auto_class: str) -> Weights:
    """Load weights on the CPU with the linear layers of the encoder in int8; head and pooler stay in float32.

    Cached and raising as `load_weights`.
    """
    weights = load_weights.__wrapped__(folder, auto_class, torch.float32, torch.device("cpu"))
    encoder = weights.module.base_model
    for name, part in list(encoder.named_modules()):
        if type(part) is nn.Linear and "pooler" not in name:
            parent, _, attribute = name.rpartition(".")
            setattr(encoder.get_submodule(parent), attribute, Int8Linear(part))
    return weights


def reason_against_int8(relative_error: float, int8_s: float, float32_s: float) -> str | None:
    """Return why int8 must not be served, or None if it may; both times are for the same sequences."""
    if not relative_error <= INT8_TOLERANCE:  # also true for NaN
        return f"int8 differs from float32 by {relative_error:.1e}, more than {INT8_TOLERANCE}"
    if int8_s * INT8_SPEEDUP > float32_s:
        return (
            f"int8 is not faster here: {1e3 * int8_s:.3g} ms against {1e3 * float32_s:.3g} ms of float32 "
            f"for the same texts; it must be at least {INT8_SPEEDUP} times as fast"
        )
    return None
