"""Linear layers in 8-bit integers, for CPUs: a quarter of the memory, and products that run several times faster.

Weights are rounded once, symmetrically, with a scale for each output (Jacob et al. 2018, arXiv:1712.05877);
activations at each call, with a scale and a middle for each token, so that what a text is answered never depends on
its neighbours. torch's own `quantize_dynamic` has one scale for a whole batch, and is deprecated.

Two kernels that differ in the seventh digit may round a number up and down. From layer to layer that grows to what the
rounding itself does, so strategies agree with each other as far as int8 agrees with float32, and no further.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from windrow.worker.engines.device.weights import Weights, load_weights

#: Largest relative error against float32 that is close enough: a cosine of 0.995 between vectors of one length.
INT8_TOLERANCE = 0.1
#: int8 has to be so much faster: what is gained has to be worth the digits that are lost.
INT8_SPEEDUP = 1.1
#: Tokens whose products stay in a core's cache.
BLOCK_TOKENS = 256


class Int8Linear(nn.Module):
    """What ``nn.Linear`` computes, by one product of 8-bit integers."""

    weight: Tensor
    scale: Tensor
    sums: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Round the weights of ``linear``, which is float32 and on the CPU."""
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scale[:, None]).round_()
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scale", scale)
        #: Of each output's weights, for the middle of the activations.
        self.register_buffer("sums", rounded.sum(1) * scale)
        self.register_buffer("bias", torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) float32 -> (..., outputs) float32."""
        tokens = inputs.reshape(-1, inputs.shape[-1])
        outputs = tokens.new_empty(len(tokens), len(self.weight))
        for block, out in zip(tokens.split(BLOCK_TOKENS), outputs.split(BLOCK_TOKENS), strict=True):
            low, high = block.amin(1, keepdim=True), block.amax(1, keepdim=True)  # aminmax takes 15 times as long
            middle = (low + high).mul_(0.5)
            # A token of equal numbers has no width, and is its middle.
            step = (high - low).div_(254).clamp_(min=torch.finfo(torch.float32).tiny)
            rounded = (block - middle).div_(step).round_().to(torch.int8)
            out.copy_(torch._int_mm(rounded, self.weight.t())).mul_(step)
            torch.addcmul(self.bias, out, self.scale, out=out).addcmul_(middle, self.sums)
        return outputs.view(*inputs.shape[:-1], len(self.weight))


@cache
def load_int8(folder: Path, auto_class: str) -> Weights:
    """As `load_weights`, on the CPU, with the encoder's linear layers in int8; heads and poolers stay in float32."""
    weights = load_weights.__wrapped__(folder, auto_class, torch.float32, torch.device("cpu"))
    encoder = weights.module.base_model
    for name, part in list(encoder.named_modules()):
        if type(part) is nn.Linear and "pooler" not in name:
            parent, _, attribute = name.rpartition(".")
            setattr(encoder.get_submodule(parent), attribute, Int8Linear(part))
    return weights


def reason_against_int8(relative_error: float, int8_s: float, float32_s: float) -> str | None:
    """Why int8 is not worth it, or None where it is; seconds are those of the same passes."""
    if not relative_error <= INT8_TOLERANCE:  # not a number is not close either
        return f"int8 differs from float32 by {relative_error:.1e}, more than {INT8_TOLERANCE}"
    if int8_s * INT8_SPEEDUP > float32_s:
        return (
            f"int8 is not faster here: {1e3 * int8_s:.3g} ms against {1e3 * float32_s:.3g} ms of float32 "
            f"for the same texts, and {INT8_SPEEDUP} times as fast is asked"
        )
    return None
