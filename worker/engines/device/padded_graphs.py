"""CUDA graphs of padded batches, one per bucket and number of rows, for models that cannot run packed batches.

The number of rows is rounded up to the next captured one (`windrow.scheduler.core.planning.rectangle_rungs`). Rows
without a sequence have one padding token, and their vectors are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from windrow.worker.engines.device.graph_capture import CapturedGraphs, PinnedInputs
from windrow.worker.engines.device.token_batches import Tokens, pad_batch

#: (rows, length) ids, mask and, if the model uses them, types, all int64 -> (rows, width) or (rows, length, width).
PaddedFunction = Callable[..., Tensor]


class PaddedGraphs:
    """Captured padded batches. Used by one thread, in inference mode.

    The input buffer has the length of each row, then one (rows, length) array per kind of input: ids and types.
    """

    def __init__(
        self,
        function: PaddedFunction,
        shapes: Collection[tuple[int, int]],
        arrays: int,
        pad_id: int,
        device: torch.device,
    ) -> None:
        """Capture ``function`` for each of ``shapes``, (rows, length in tokens).

        ``arrays`` is 1 if it reads ids, 2 if it reads types, too. Raises what the model raises.
        """
        self._function = function
        self._arrays = arrays
        self._pad_id = pad_id
        self._inputs = PinnedInputs(max(self._integers(*shape) for shape in shapes), torch.int64, device)
        largest_first = sorted(shapes, key=lambda shape: shape[0] * shape[1], reverse=True)
        self._graphs = CapturedGraphs(largest_first, self._inputs, self._function_of)

    def has(self, rows: int, length: int) -> bool:
        """Return whether a batch of this shape was captured."""
        return (rows, length) in self._graphs

    def replay(
        self, rows: int, length: int, sequences: Sequence[Tokens], began: torch.cuda.Event | None = None
    ) -> Tensor:
        """Start the batch of ``rows`` by ``length``; return the vectors of ``sequences``, valid until the next call."""
        ids, _, types = pad_batch(sequences, length, self._pad_id)
        count, integers = len(sequences), self._integers(rows, length)
        buffer = self._inputs.next()
        buffer[:rows] = 1
        buffer[:count] = [len(sequence) for sequence in sequences]
        arrays = buffer[rows:integers].reshape(self._arrays, rows, length)
        for array, values, padding in zip(arrays, (ids, types), (self._pad_id, 0), strict=False):
            array[:count] = values
            array[count:] = padding
        return self._graphs.replay((rows, length), integers, began)[:count]

    def _integers(self, rows: int, length: int) -> int:
        """Return how many integers of the buffer a batch uses."""
        return rows * (1 + self._arrays * length)

    def _function_of(self, shape: tuple[int, int]) -> Callable[[], Tensor]:
        rows, length = shape
        lengths = self._inputs.on_device[:rows]
        ids, *types = self._inputs.on_device[rows : self._integers(rows, length)].view(self._arrays, rows, length)
        # With padding: models check before the capture whether there is any.
        lengths.fill_(1)

        def run() -> Tensor:
            # The mask is computed inside: a graph must not read memory that is freed after the capture.
            columns = torch.arange(length, device=ids.device)
            return self._function(ids, (columns < lengths[:, None]).to(torch.int64), *types)

        return run
