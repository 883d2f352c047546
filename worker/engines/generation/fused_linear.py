"""Linear layers that read the same input, computed as one: fewer kernels, each long enough to fill the device.

A module that was joined is for one thread: what the first layer computes for the others waits in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Layers that families of transformers call in this order on the same input.
JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _First(nn.Module):
    """Computes all and returns the first part; the others are waiting for their callers."""

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
    """Returns what the first computed for it."""

    def __init__(self, first: _First) -> None:
        super().__init__()
        self._first = [first]  # in a list: it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        first = self._first[0]
        part, *first.waiting = first.waiting
        return part


def fuse_linears(module: nn.Module) -> int:
    """Join what can be joined in ``module``; how many layers became parts of others.

    Whether the model calls them as expected shows in its answers only: compare them with those of before.
    """
    count = 0
    for parent in list(module.modules()):
        for names in JOINED:
            found = [getattr(parent, name, None) for name in names]
            # Not of a class derived from it, which may do more.
            layers = [layer for layer in found if isinstance(layer, nn.Linear) and type(layer) is nn.Linear]
            if len(layers) < len(names) or len({layer.bias is None for layer in layers}) > 1:
                continue
            first = _First(layers)
            setattr(parent, names[0], first)
            for name in names[1:]:
                setattr(parent, name, _Next(first))
            count += len(names) - 1
    return count
