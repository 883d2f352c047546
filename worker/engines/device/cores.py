"""Runs a batch on several CPU cores: one thread per part of the batch, each with torch's own threads switched off.

torch would split every operation over the cores instead and wait for the slowest one, spinning. Beside other processes
that collapses (measured in docs/performance.md). For the same reason no core waits for the others at the end of a
batch: the next batch starts as soon as one core is idle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache, partial

import torch
from torch import Tensor

#: A part of a batch: computes the result of some of its sequences.
BatchPart = Callable[[], Tensor]

#: Held while a batch is split and its parts are submitted.
_starting = threading.Lock()
#: Parts of all batches that may still be running.
_running: list[Future[tuple[Tensor, float]]] = []


class StartedBatch:
    """A batch whose parts have been submitted to the cores."""

    def __init__(self, parts: Sequence[Future[tuple[Tensor, float]]]) -> None:
        self._parts = parts
        #: Start of the batch, and end of its last part once `result` has returned, by `time.monotonic`.
        self.began_s = self.ended_s = time.monotonic()

    def result(self) -> Tensor:
        """Wait for all parts and return their concatenated results. Raises the first exception of a part."""
        results = [part.result() for part in self._parts]
        self.ended_s = max(ended_s for _, ended_s in results)
        return torch.cat([tensor for tensor, _ in results])


@cache
def cores() -> int:
    """Return the number of cores of this process: `torch.get_num_threads` before the first batch."""
    return torch.get_num_threads()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "core", initializer=partial(torch.set_num_threads, 1))


def start_on_cores(split: Callable[[], Sequence[BatchPart]]) -> StartedBatch:
    """Start the parts that ``split`` returns, and return as soon as a core is idle; some parts may still be running.

    A single part runs in the calling thread and raises its exception here. No other batch is split at the same time.
    """
    with _starting:
        parts = split()
        single: Future[tuple[Tensor, float]] | None = Future() if len(parts) == 1 else None
        futures = [single] if single else [_threads().submit(_run, part) for part in parts]
        started = StartedBatch(futures)
        unfinished = {future for future in [*_running, *futures] if not future.done()}
        _running[:] = unfinished
    if single:  # not worth another thread
        cores()  # read and cached before set_num_threads changes it
        torch.set_num_threads(1)
        try:
            single.set_result(_run(parts[0]))
        except BaseException as error:
            single.set_exception(error)
            raise
    while len(unfinished) >= cores():
        unfinished = wait(unfinished, return_when=FIRST_COMPLETED).not_done
    return started


def wait_for_cores() -> None:
    """Wait for all running parts. ``split`` calls this before it changes something that earlier batches use."""
    wait(_running)


def _run(part: BatchPart) -> tuple[Tensor, float]:
    with torch.inference_mode():  # this setting is per thread
        return part(), time.monotonic()
