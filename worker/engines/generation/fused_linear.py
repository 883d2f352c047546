"""Modules rewritten for CUDA: linear layers that read the same input become one, and shared values are computed once.

Fewer kernels are launched, and each is long enough to fill the device. A fused module is for one thread, because the
first layer keeps the outputs of the others until they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Layers that models of transformers call in this order on the same input.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _First(nn.Module):
    """Computes all fused layers and returns the output of the first."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
        biases = [layer.bias for layer in layers]
        self.bias = None if biases[0] is None else nn.Parameter(torch.cat(biases), requires_grad=False)
        self.sizes = [layer.out_features for layer in layers]
        self.waiting: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        first, *self.waiting = F.linear(x, self.weight, self.bias).split(self.sizes, dim=-1)
        return first


class _Next(nn.Module):
    """Returns the output that the first layer computed for it."""

    def __init__(self, first: _First) -> None:
        super().__init__()
        self._first = [first]  # in a list, so that it is not a submodule

    def forward(self, x: Tensor) -> Tensor:
        first = self._first[0]
        part, *first.waiting = first.waiting
        return part


def fuse_linears(module: nn.Module) -> int:
    """Fuse the layers of ``module`` that can be fused; return how many layers became parts of others.

    Compare the model's output with that of before: only this shows whether it calls the layers in the expected order.
    """
    count = 0
    for parent in list(module.modules()):
        for names in FUSED:
            found = [getattr(parent, name, None) for name in names]
            # A derived class may compute more.
            layers = [layer for layer in found if isinstance(layer, nn.Linear) and type(layer) is nn.Linear]
            if len(layers) < len(names) or len({layer.bias is None for layer in layers}) > 1:
                continue
            first = _First(layers)
            setattr(parent, names[0], first)
            for name in names[1:]:
                setattr(parent, name, _Next(first))
            count += len(names) - 1
    return count


def _keep(value: Tensor) -> Tensor:
    """Return a copy, as an operation that a compiler does not look into."""
    return value.clone()


_kept = torch.library.custom_op("windrow::kept", _keep, mutates_args=())
_kept.register_fake(torch.empty_like)


def cache_rotary(module: nn.Module) -> int:
    """Compute the sines and cosines of rotary positions once per forward pass; return how many modules were found.

    Modules are found by the name of their class. torch's compiler would compute the values again in each layer.
    """
    embeddings = [child for child in module.modules() if type(child).__name__.endswith("RotaryEmbedding")]
    for embedding in embeddings:
        embedding.register_forward_hook(_keep_all)
    return len(embeddings)


def _keep_all(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    return tuple(_kept(value) for value in output) if isinstance(output, tuple) else output
