"""CUDA graphs of packed batches, one per size in tokens.

Batches are rounded up to the next captured size (`windrow.scheduler.core.planning.token_rungs`). The tokens after the
last sequence belong to no sequence, and no other token attends to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.graph_capture import CapturedGraphs, PinnedInputs

#: (1, tokens) ids, (1, tokens) positions, layout and, if the model uses them, (1, tokens) types -> vectors.
PackedFunction = Callable[..., Tensor]


class PackedGraphs:
    """Captured packed batches. Used by one thread, in inference mode.

    The input buffer has the offset of each sequence, then one array per kind of input: ids, positions and types.
    """

    def __init__(
        self,
        function: PackedFunction,
        sizes: Sequence[int],
        max_sequences: int,
        max_tokens: int,
        arrays: int,
        device: torch.device,
    ) -> None:
        """Capture ``function`` for each of ``sizes`` in tokens, with up to ``max_sequences`` of ``max_tokens`` each.

        ``arrays`` is 2 if it reads ids and positions, 3 if it reads types, too. Raises what the model raises.
        """
        self._function = function
        self._max_tokens = max_tokens
        self._offsets = max_sequences + 1
        self._arrays = arrays
        self._inputs = PinnedInputs(self._offsets + arrays * max(sizes), torch.int32, device)
        self._graphs = CapturedGraphs(sorted(sizes, reverse=True), self._inputs, self._function_of)

    def has(self, size: int, sequences: int) -> bool:
        """Return whether a batch of ``size`` tokens with this number of sequences can be replayed."""
        return size in self._graphs and sequences < self._offsets

    def replay(
        self,
        size: int,
        arrays: Sequence[NDArray[np.int64]],
        lengths: Sequence[int],
        began: torch.cuda.Event | None = None,
    ) -> Tensor:
        """Start the batch of ``size`` tokens over sequences of ``lengths``; ``arrays`` are (tokens,) each.

        Returns its vectors, followed by vectors without meaning for the padding; they are valid until the next call.
        """
        tokens, sequences = len(arrays[0]), len(lengths)
        buffer = self._inputs.next()
        buffer[0] = 0
        np.cumsum(lengths, out=buffer[1 : sequences + 1])
        buffer[sequences + 1 : self._offsets] = tokens
        for start, values in zip(self._starts(size), arrays, strict=True):
            buffer[start : start + tokens] = values
            # Values from an earlier batch of another size may be no valid id, position or type.
            buffer[start + tokens : start + size] = 0
        return self._graphs.replay(size, self._offsets + self._arrays * size, began)

    def _starts(self, size: int) -> range:
        """Return where each array of a batch starts in the buffer."""
        return range(self._offsets, self._offsets + self._arrays * size, size)

    def _function_of(self, size: int) -> Callable[[], Tensor]:
        inputs = self._inputs.on_device
        offsets = inputs[: self._offsets]
        ids, positions, *types = (inputs[None, start : start + size] for start in self._starts(size))
        # Sequences of one token each: only the shapes matter for the capture.
        offsets.copy_(torch.arange(self._offsets, dtype=torch.int32).clamp(max=size))
        layout = PackedLayout(offsets, self._max_tokens)
        return lambda: self._function(ids, positions, layout, *types)
