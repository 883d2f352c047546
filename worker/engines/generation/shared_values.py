"""Compute values that all layers read only once; torch's compiler would compute them again in each layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _keep(value: Tensor) -> Tensor:
    """Return a copy, as an operation that a compiler does not look into."""
    return value.clone()


_kept = torch.library.custom_op("windrow::kept", _keep, mutates_args=())
_kept.register_fake(torch.empty_like)


def cache_rotary(module: nn.Module) -> int:
    """Compute the sines and cosines of rotary positions once per pass; return the number of modules found by name."""
    embeddings = [child for child in module.modules() if type(child).__name__.endswith("RotaryEmbedding")]
    for embedding in embeddings:
        embedding.register_forward_hook(_keep_all)
    return len(embeddings)


def _keep_all(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    return tuple(_kept(value) for value in output) if isinstance(output, tuple) else output
