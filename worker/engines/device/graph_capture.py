"""CUDA graphs of one function for several sizes of its input, over one input buffer.

A forward pass of small kernels is bound by Python and by kernel launches, and a new shape costs milliseconds of
planning. A captured graph replays a whole forward pass in one launch. It always reads the same memory and has a fixed
size, so that batches are rounded up to the next captured size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)
S = TypeVar("S")
R = TypeVar("R")

#: Number of pinned buffers: batches whose inputs may be on the way to the device at the same time.
PINNED_BUFFERS = 4


class PinnedInputs:
    """The input buffer of captured graphs on the device, and pinned host buffers that fill it in turn."""

    def __init__(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """``length`` is the number of integers that the largest batch reads."""
        #: (length,): what the graphs read.
        self.on_device = torch.zeros(length, dtype=dtype, device=device)
        self._pinned = [torch.zeros(length, dtype=dtype, pin_memory=True) for _ in range(PINNED_BUFFERS)]
        self._sent = [torch.cuda.Event() for _ in range(PINNED_BUFFERS)]
        self._current = 0

    def next(self) -> NDArray[Any]:
        """Return the (length,) host buffer to fill for the next `send`; wait until its last content was copied."""
        self._current = (self._current + 1) % PINNED_BUFFERS
        self._sent[self._current].synchronize()
        return self._pinned[self._current].numpy()

    def send(self, length: int, began: torch.cuda.Event | None = None) -> None:
        """Start to copy the first ``length`` integers to the device; record ``began`` before, if there is one."""
        if began is not None:
            began.record()
        self.on_device[:length].copy_(self._pinned[self._current][:length], non_blocking=True)
        self._sent[self._current].record()


class CapturedGraphs(Generic[S]):
    """The graphs of one function by the size of its input. Used by one thread, in inference mode."""

    def __init__(
        self, sizes: Iterable[S], inputs: PinnedInputs, function_of: Callable[[S], Callable[[], Tensor]]
    ) -> None:
        """Capture a graph for each of ``sizes``, in this order.

        Put the largest size first, so that the others fit into its memory. ``function_of(size)`` fills
        ``inputs.on_device`` with valid values and returns the function to capture. Raises what that function raises.
        """
        self.inputs = inputs
        self._graphs: dict[S, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        began_s = time.monotonic()
        for size in sizes:
            self._graphs[size] = capture_graph(function_of(size), pool)
        log.info("%d batch sizes captured in %.1f s", len(self._graphs), time.monotonic() - began_s)

    def __contains__(self, size: S) -> bool:
        return size in self._graphs

    def replay(self, size: S, length: int, began: torch.cuda.Event | None = None) -> Tensor:
        """Send the first ``length`` integers of the buffer from `PinnedInputs.next` and start the graph of ``size``.

        The result is valid until the next call. ``began`` is recorded when the device gets its first work.
        """
        self.inputs.send(length, began)
        graph, result = self._graphs[size]
        graph.replay()
        return result


def capture_graph(function: Callable[[], R], pool: Any) -> tuple[torch.cuda.CUDAGraph, R]:
    """Capture ``function`` in the memory of ``pool``; return the graph and the tensors that each replay writes to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()  # in the first call, libraries allocate and plan, and torch compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = function()
    return graph, result
