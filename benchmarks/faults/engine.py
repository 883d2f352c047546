"""An engine with known answers that fails on certain inputs; the workers of `worker_app` load it."""

from __future__ import annotations

import os
import resource
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.stop_points import stop_at
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import EngineInfo, Prepared

#: Environment variables with the seconds per forward pass and per request in it.
PASS_VARIABLE, ITEM_VARIABLE = "FAULTS_PASS_S", "FAULTS_ITEM_S"
#: First words of inputs that make the forward pass fail.
KILLS, RAISES, EXHAUSTS = "kill", "raise", "memory"
#: How much memory the process may allocate while it handles an input that exhausts memory.
ROOM_BYTES = 64 << 20


def known_answer(text: str) -> dict[str, Any]:
    """Compute the model's answer from the text, so that the checker detects swapped answers."""
    return {"embedding": [float(zlib.crc32(text.encode())), float(len(text))]}


class KnownEngine:
    """An `Engine` that sleeps instead of computing."""

    busy_s = 0.0

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self.info = EngineInfo(
            model=name, task=settings.task, strategy=settings.strategy, strategy_note=None, device="cpu",
            dtype="float32", max_input_tokens=512,
        )  # fmt: skip
        self._pass_s = float(os.environ.get(PASS_VARIABLE, "0.002"))
        self._item_s = float(os.environ.get(ITEM_VARIABLE, "0"))

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Count each input as one token."""
        return [Prepared(1, text) for text in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> list[str]:
        """Sleep for the time of a forward pass, then fail if an input's first word requests it."""
        stop_at("before_forward")
        texts = [request.data for request in prepared]
        time.sleep(self._pass_s + self._item_s * len(texts))
        words = {text.partition(" ")[0] for text in texts}
        if KILLS in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISES in words:
            raise ValueError("an input that this model raises on")
        if EXHAUSTS in words:
            exhaust_memory()
        stop_at("after_forward")
        return texts

    def collect(self, handle: list[str]) -> list[Outcome]:
        """Return the known answers."""
        return [Done(known_answer(text)) for text in handle]


def exhaust_memory() -> None:
    """Raise `MemoryError` by a real allocation beyond the process's limit."""
    size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes + ROOM_BYTES, before[1]))
    try:
        bytearray(4 * ROOM_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
