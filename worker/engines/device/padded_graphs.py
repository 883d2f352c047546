"""CUDA graphs of padded passes, for models that cannot pack: one per bucket and number of rows.

As with `windrow.worker.engines.device.packed_graphs`, what is captured before the model is ready is replayed in one
launch. The planner
rounds the rows of a bucket up (`windrow.scheduler.core.planning.rectangle_rungs`); rows that belong to no sequence
hold one padding token, and what they answer is not read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from windrow.worker.engines.device.staging import InputStages, capture
from windrow.worker.engines.text.sequences import Tokens, as_rectangle

log = logging.getLogger(__name__)

#: (rows, length) ids, mask, and types where the model is told, all int64 -> (rows, width), or (rows, length, width).
PaddedRun = Callable[..., Tensor]


class RectangleGraphs:
    """Captured passes over shared input memory. Used by one thread, in inference mode."""

    def __init__(
        self, run: PaddedRun, shapes: Collection[tuple[int, int]], channels: int, pad_id: int, device: torch.device
    ) -> None:
        """Capture ``run`` for each of ``shapes`` (rows, length in tokens).

        ``channels`` is how many numbers it reads of a token: its id, or its type too. Raises whatever the model raises
        when it is captured.
        """
        self._run = run
        self._channels = channels
        self._pad_id = pad_id
        room = max(self._size(rows, length) for rows, length in shapes)
        self._stages = InputStages(room, torch.int64, device)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        began_s = time.monotonic()
        # The largest first: the smaller ones then find room in its memory.
        for rows, length in sorted(shapes, key=lambda shape: shape[0] * shape[1], reverse=True):
            self._graphs[rows, length] = self._capture(rows, length, pool)
        log.info("%d rectangles captured in %.1f s", len(self._graphs), time.monotonic() - began_s)

    def has(self, rows: int, length: int) -> bool:
        """Whether a pass of that shape was captured."""
        return (rows, length) in self._graphs

    def replay(
        self, rows: int, length: int, sequences: Sequence[Tokens], began: torch.cuda.Event | None = None
    ) -> Tensor:
        """Start the pass of ``rows`` by ``length`` over ``sequences``; an answer for each, good until the next call.

        ``began`` is recorded when there is work for the device, which the preparations here are not.
        """
        ids, _, types = as_rectangle(sequences, length, self._pad_id)
        count, size = len(sequences), self._size(rows, length)
        stage = self._stages.next()
        stage[:rows] = 1
        stage[:count] = [len(one) for one in sequences]
        channels = stage[rows:size].reshape(self._channels, rows, length)
        for channel, values, padding in zip(channels, (ids, types), (self._pad_id, 0), strict=False):
            channel[:count] = values
            channel[count:] = padding
        self._stages.send(size, began)
        graph, answers = self._graphs[rows, length]
        graph.replay()
        return answers[:count]

    def _size(self, rows: int, length: int) -> int:
        """Integers of a pass: the length of each row, then its channels."""
        return rows * (1 + self._channels * length)

    def _capture(self, rows: int, length: int, pool: object) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        lengths = self._stages.on_device[:rows]
        ids, *types = self._stages.on_device[rows : self._size(rows, length)].view(self._channels, rows, length)
        # Some padding: before the capture, models look whether there is any.
        lengths.fill_(1)

        def run() -> Tensor:
            # All in here: a graph reads no memory that is let go after its capture.
            columns = torch.arange(length, device=ids.device)
            return self._run(ids, (columns < lengths[:, None]).to(torch.int64), *types)

        return capture(run, pool)
