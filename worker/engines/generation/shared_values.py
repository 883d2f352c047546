"""Values that every layer reads, computed once: torch's compiler would rather compute them again in each layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _keep(value: Tensor) -> Tensor:
    """``value`` as it is, behind what no compiler sees through."""
    return value.clone()


_kept = torch.library.custom_op("windrow::kept", _keep, mutates_args=())
_kept.register_fake(torch.empty_like)


def cache_rotary(module: nn.Module) -> int:
    """Keep the sines and cosines of rotary positions, by the name that families give their maker; how many makers."""
    makers = [one for one in module.modules() if type(one).__name__.endswith("RotaryEmbedding")]
    for maker in makers:
        maker.register_forward_hook(_keep_all)
    return len(makers)


def _keep_all(_module: nn.Module, _arguments: Any, made: Any) -> Any:
    return tuple(_kept(one) for one in made) if isinstance(made, tuple) else made
