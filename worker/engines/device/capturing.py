"""Which passes of a model are captured as CUDA graphs when it is loaded, and whether they answer as one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import bucket_length, token_rungs
from windrow.worker.engines.device.captured_sizes import captured_padded_sizes
from windrow.worker.engines.device.packed_graphs import PackedGraphs, PackedRun
from windrow.worker.engines.device.padded_graphs import PaddedRun, RectangleGraphs
from windrow.worker.engines.device.staging import KeepsConstants
from windrow.worker.engines.text.self_check import Reference
from windrow.worker.engines.text.sequences import Tokens

logger = logging.getLogger(__name__)
T = TypeVar("T")


def capture_packed(
    settings: ModelSettings,
    run: PackedRun,
    make: Callable[[PackedRun, Sequence[int]], PackedGraphs],
    replay: Callable[[PackedGraphs, int, Sequence[Tokens]], Tensor],
    reference: Reference,
) -> PackedGraphs | None:
    """Graphs of packed passes, compiled where that works; None where they cannot be had.

    ``make`` captures a run for sizes in tokens, ``replay`` answers some texts by the graph of a size.
    """
    rungs = token_rungs(settings.max_batch_tokens)
    ways = {"captured": lambda: make(run, rungs)}
    if settings.compile:
        ways = {"compiled": lambda: make(torch.compile(run, dynamic=True), rungs)} | ways
    # Of a small budget, only some of the texts fit a pass.
    return _first_that_agrees(
        ways, lambda graphs, text: replay(graphs, bucket_length(len(text), rungs), [text]), reference.up_to(rungs[-1])
    )


def capture_rectangles(
    settings: ModelSettings,
    longest: int,
    run: PaddedRun,
    make: Callable[[PaddedRun, Sequence[tuple[int, int]]], RectangleGraphs],
    replay: Callable[[RectangleGraphs, int, int, Sequence[Tokens]], Tensor],
    reference: Reference,
) -> RectangleGraphs | None:
    """Graphs of the passes of ``bucket``, for texts of at most ``longest`` tokens; None where they cannot be had.

    ``make`` captures a run for shapes (rows, length), ``replay`` answers some texts by the graph of a shape.
    """
    rungs = {length: rows for length, rows in captured_padded_sizes(settings, longest).items() if rows}
    shapes = [(number, length) for length, rows in rungs.items() for number in rows]

    def answer(graphs: RectangleGraphs, text: Tokens) -> Tensor:
        length = bucket_length(len(text), tuple(rungs))
        # Beside a row without a text, where there is a pass of more than one.
        return replay(graphs, rungs[length][:2][-1], length, [text])

    ways = {
        "captured": lambda: make(run, shapes),
        "captured with constants kept": lambda: make(KeepsConstants(run), shapes),
    }
    return _first_that_agrees(ways, answer, reference.up_to(max(rungs)))


def _first_that_agrees(
    ways: Mapping[str, Callable[[], T]], answer: Callable[[T, Tokens], Tensor], reference: Reference
) -> T | None:
    """The first of ``ways`` to capture passes that can be captured and answer what ``reference`` says."""
    for way, captured in ways.items():
        try:
            with torch.inference_mode():
                graphs = captured()
                # A replay leaves its answer where the next one does.
                rows = [answer(graphs, text).clone() for text in reference.texts]
            difference = reference.difference(rows)
        except Exception as error:  # Whatever is raised here, it can still serve without.
            logger.warning(
                "model %s: its passes cannot be %s: %s: %s", reference.model, way, type(error).__name__, error
            )
            continue
        if difference <= reference.tolerance:
            return graphs
        logger.warning("model %s: %s passes differ by %.1e, more than rounding", reference.model, way, difference)
    return None
