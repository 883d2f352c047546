"""Random inputs for measuring a torch model, and a context manager that restores the model's modes. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: Callable[[Any], Any]) -> Iterator[None]:
    """Put a module into evaluation mode during the ``with`` block; afterwards each submodule has its old mode again."""
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


def draw_inputs(model: Callable[[Any], Any], shape: Sequence[int]) -> torch.Tensor:
    """Draw the same inputs for the same shape; see `windrow.lab.primitives.sizing.find_optimal_batch_size`."""
    first = _first_with_parameters(model)
    like = torch.empty(0) if first is None else next(first.parameters(recurse=False))
    numbers = torch.Generator(like.device).manual_seed(0)
    if isinstance(first, (nn.Embedding, nn.EmbeddingBag)):
        return torch.randint(first.num_embeddings, tuple(shape), generator=numbers, device=like.device)
    # Integer weights belong to a quantised layer, whose inputs are floats.
    dtype = like.dtype if like.is_floating_point() else torch.float32
    return torch.randn(tuple(shape), generator=numbers, dtype=dtype, device=like.device)


def _first_with_parameters(model: Callable[[Any], Any]) -> nn.Module | None:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return next((module for module in modules if any(True for _ in module.parameters(recurse=False))), None)
