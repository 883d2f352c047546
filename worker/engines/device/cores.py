"""Passes on several CPU cores: a piece of the batch a thread, each with torch's own threads switched off.

torch would split every operation over the cores instead, and wait for the slowest, spinning. Beside other processes
that collapses (measured in docs/performance.md); a piece that is held up holds up nobody. For the same reason no core
waits for the others at the end of a pass: the next one may start as soon as one of them has nothing to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache, partial

import torch
from torch import Tensor

#: A piece of a pass: called on a core, it gives some of the rows.
Piece = Callable[[], Tensor]

#: Held while a pass is cut and handed over.
_starting = threading.Lock()
#: Pieces of all passes that may not have ended yet.
_under_way: list[Future[tuple[Tensor, float]]] = []


class Started:
    """A pass whose pieces have been handed to the cores."""

    def __init__(self, pieces: Sequence[Future[tuple[Tensor, float]]]) -> None:
        self._pieces = pieces
        #: `time.monotonic`; the end is that of the last piece, known once `rows` has returned.
        self.began_s = self.ended_s = time.monotonic()

    def rows(self) -> Tensor:
        """Wait for all pieces and return their rows, in order. Raises what a piece raised."""
        results = [piece.result() for piece in self._pieces]
        self.ended_s = max(ended_s for _, ended_s in results)
        return torch.cat([rows for rows, _ in results])


@cache
def cores() -> int:
    """Cores of this process, as `torch.set_num_threads` said before the first pass."""
    return torch.get_num_threads()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "core", initializer=partial(torch.set_num_threads, 1))


def start_on_cores(cut: Callable[[], Sequence[Piece]]) -> Started:
    """Start the pieces that ``cut`` gives, and return once a core has nothing to do: the last ones may still run.

    A single piece runs in this thread, and what it raises is raised here. No other pass is cut meanwhile.
    """
    with _starting:
        pieces = cut()
        alone: Future[tuple[Tensor, float]] | None = Future() if len(pieces) == 1 else None
        futures = [alone] if alone else [_threads().submit(_run, piece) for piece in pieces]
        started = Started(futures)
        left = {future for future in [*_under_way, *futures] if not future.done()}
        _under_way[:] = left
    if alone:  # not worth handing over
        cores()  # is read before it is changed
        torch.set_num_threads(1)
        try:
            alone.set_result(_run(pieces[0]))
        except BaseException as error:
            alone.set_exception(error)
            raise
    while len(left) >= cores():
        left = wait(left, return_when=FIRST_COMPLETED).not_done
    return started


def finish_on_cores() -> None:
    """Wait for all pieces; to be called by ``cut`` where a pass changes what those before it use."""
    wait(_under_way)


def _run(piece: Piece) -> tuple[Tensor, float]:
    with torch.inference_mode():  # a setting of each thread
        return piece(), time.monotonic()
