"""Constants that a model creates on the host during its forward pass, kept on the device for CUDA graphs.

A capture does not allow copies from pageable host memory. DeBERTa, for example, computes relative positions on the host
in each forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that copy a tensor from the host to a device.
TRANSFERS = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.type_as)


class HostConstants(TorchDispatchMode):
    """Copies the host tensors of a forward pass to the device in the first run, and reuses the copies in later runs.

    The inputs of the model are on the device, so its host tensors depend on the shapes only and are the same in each
    run. Captured graphs read the kept tensors: keep this object as long as the graphs.
    """

    def __init__(self) -> None:
        super().__init__()
        #: In order of execution: the operation, its host tensor and its result.
        self._made: list[tuple[Any, Tensor, Tensor]] = []
        self._next = 0

    def __enter__(self) -> HostConstants:
        self._next = 0
        return super().__enter__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in TRANSFERS or args[0].device.type != "cpu":
            return func(*args, **(kwargs or {}))
        index = self._next
        self._next += 1
        if index < len(self._made):
            operation, source, kept = self._made[index]
            if operation == func and source.dtype == args[0].dtype and torch.equal(source, args[0]):
                return kept.clone()  # the model may modify its tensor in place
        made = func(*args, **(kwargs or {}))
        self._made[index:] = [(func, args[0].clone(), made.clone())]
        return made


def keeping_constants(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that calls ``run`` inside `HostConstants`, one for each shape of the first argument."""
    constants: dict[tuple[int, ...], HostConstants] = {}

    def call(ids: Tensor, *more: Tensor) -> Tensor:
        with constants.setdefault(tuple(ids.shape), HostConstants()):
            return run(ids, *more)

    return call
