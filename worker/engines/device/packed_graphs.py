"""CUDA graphs of packed passes: one per size in tokens, captured before the model is ready, replayed in one launch.

A pass of small kernels is bound by Python and by launches, and a new shape costs milliseconds of planning; a replay
has neither. Passes are rounded up to the next captured size (`windrow.scheduler.core.planning.token_rungs`): the tokens
behind the last sequence belong to nobody, and no other token ever sees them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windrow.worker.engines.device.attention import PackedLayout
from windrow.worker.engines.device.staging import InputStages, capture

log = logging.getLogger(__name__)

#: (1, tokens) ids, (1, tokens) positions, layout, and (1, tokens) types where the model is told -> rows.
PackedRun = Callable[..., Tensor]


class PackedGraphs:
    """Captured passes over shared input memory. Used by one thread, in inference mode."""

    def __init__(
        self,
        run: PackedRun,
        rungs: Sequence[int],
        max_sequences: int,
        longest: int,
        channels: int,
        device: torch.device,
    ) -> None:
        """Capture ``run`` for each of ``rungs`` (tokens), up to ``max_sequences`` of at most ``longest`` tokens each.

        ``channels`` is how many numbers it reads of a token: id and position, or the type too. Raises whatever the
        model raises when it is captured.
        """
        self._run = run
        self._longest = longest
        self._offsets = max_sequences + 1
        self._channels = channels
        room = self._offsets + channels * max(rungs)
        self._stages = InputStages(room, torch.int32, device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        began_s = time.monotonic()
        # The largest first: the smaller ones then find room in its memory.
        for rung in sorted(rungs, reverse=True):
            self._graphs[rung] = self._capture(rung, pool)
        log.info("%d passes captured in %.1f s", len(self._graphs), time.monotonic() - began_s)

    def has(self, rung: int, sequences: int) -> bool:
        """Whether a pass of that size was captured."""
        return rung in self._graphs and sequences < self._offsets

    def replay(
        self,
        rung: int,
        channels: Sequence[NDArray[np.int64]],
        lengths: Sequence[int],
        began: torch.cuda.Event | None = None,
    ) -> Tensor:
        """Start the pass of ``rung`` over ``lengths`` laid end to end; its rows, and behind them rows of nobody's.

        ``channels`` are (tokens,) each. ``began`` is recorded when there is work for the device, which the
        preparations here are not. The rows are good until the next call.
        """
        tokens, sequences = len(channels[0]), len(lengths)
        stage = self._stages.next()
        stage[0] = 0
        np.cumsum(lengths, out=stage[1 : sequences + 1])
        stage[sequences + 1 : self._offsets] = tokens
        for start, values in zip(self._places(rung), channels, strict=True):
            stage[start : start + tokens] = values
            # What an earlier pass of another size left there need not be a token, a position or a type.
            stage[start + tokens : start + rung] = 0
        self._stages.send(self._offsets + self._channels * rung, began)
        graph, rows = self._graphs[rung]
        graph.replay()
        return rows

    def _places(self, rung: int) -> range:
        """Where each channel of a pass begins, behind the offsets."""
        return range(self._offsets, self._offsets + self._channels * rung, rung)

    def _capture(self, rung: int, pool: object) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        inputs = self._stages.on_device
        offsets = inputs[: self._offsets]
        ids, positions, *types = (inputs[None, start : start + rung] for start in self._places(rung))
        # One token in each sequence: shapes are what counts.
        offsets.copy_(torch.arange(self._offsets, dtype=torch.int32).clamp(max=rung))
        layout = PackedLayout(offsets, self._longest)
        return capture(lambda: self._run(ids, positions, layout, *types), pool)
