"""What all captured passes share: how their inputs reach the device, and how a pass becomes a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Passes whose inputs may be on their way to the device at once.
STAGES = 4
#: What takes a tensor from the host to a device.
TRANSFERS = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.type_as)


class InputStages:
    """The input memory of captured passes: one buffer on the device, and pinned ones that take turns to fill it."""

    def __init__(self, room: int, dtype: torch.dtype, device: torch.device) -> None:
        """``room`` is the number of integers that the largest pass reads."""
        #: (room,): what the graphs read.
        self.on_device = torch.zeros(room, dtype=dtype, device=device)
        self._pinned = [torch.zeros(room, dtype=dtype, pin_memory=True) for _ in range(STAGES)]
        self._sent = [torch.cuda.Event() for _ in range(STAGES)]
        self._turn = 0

    def next(self) -> NDArray[Any]:
        """(room,): the memory to fill for the next `send`. Waits until what it held has reached the device."""
        self._turn = (self._turn + 1) % STAGES
        self._sent[self._turn].synchronize()
        return self._pinned[self._turn].numpy()

    def send(self, size: int, began: torch.cuda.Event | None = None) -> None:
        """Send the first ``size`` integers on their way, and record ``began``: from here on the device has work."""
        if began is not None:
            began.record()
        self.on_device[:size].copy_(self._pinned[self._turn][:size], non_blocking=True)
        self._sent[self._turn].record()


class HostConstants(TorchDispatchMode):
    """What a model makes on the host and copies to the device: copied when it is first run inside, used again later.

    Captures allow no such copies. Inputs are on the device, so that what comes from the host follows from their shapes
    and is the same at each run. Graphs read these tensors: keep this object as long as them.
    """

    def __init__(self) -> None:
        super().__init__()
        #: In order: the operation, what it was given, and what it made of that.
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
        at = self._next
        self._next += 1
        if at < len(self._made):
            before, given, kept = self._made[at]
            if before == func and given.dtype == args[0].dtype and torch.equal(given, args[0]):
                return kept.clone()  # what the model does to its own must not reach the next run
        made = func(*args, **(kwargs or {}))
        self._made[at:] = [(func, args[0].clone(), made.clone())]
        return made


class KeepsConstants:
    """A run of a model inside `HostConstants`, those of each shape of input. Graphs of it read what it keeps."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._constants: dict[tuple[int, ...], HostConstants] = {}

    def __call__(self, ids: Tensor, *more: Tensor) -> Tensor:
        """What the run answers."""
        with self._constants.setdefault(tuple(ids.shape), HostConstants()):
            return self._run(ids, *more)


def capture(run: Callable[[], Tensor], pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """``run`` as a graph in the memory of ``pool``, and the tensor in which each replay leaves its answer.

    Raises whatever ``run`` raises when it is captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # libraries plan at the first call
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        rows = run()
    return graph, rows
