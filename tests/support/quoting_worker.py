"""``celery -A tests.support.quoting_worker worker``: the worker with a model that quotes its input as it raises."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.celery.app import app
from windrow.worker.engines.base import EngineInfo, Prepared

__all__ = ["app"]


class QuotingEngine:
    """Answers with the length of the text, unless the text asks to fail."""

    busy_s = 0.0

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self.info = EngineInfo(name, "embed", "packed", None, "cpu", "float32", 512)

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Raise for a text that begins with 'prepare'."""
        for text in inputs:
            if text.startswith("prepare"):
                raise ValueError(f"cannot prepare {text!r}")
        return [Prepared(1, text) for text in inputs]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> list[str]:
        """Raise for a text that begins with 'forward'."""
        texts = [request.data for request in prepared]
        for text in texts:
            if text.startswith("forward"):
                raise ValueError(f"cannot run {text!r}") from KeyError(text)
        return texts

    def collect(self, handle: list[str]) -> list[Outcome]:
        """Raise for a text that begins with 'collect'."""
        for text in handle:
            if text.startswith("collect"):
                raise ValueError(f"cannot collect {text!r}")
        return [Done({"embedding": [float(len(text))]}) for text in handle]


torch: Any = ModuleType("torch")
torch.set_num_threads = lambda count: None
sys.modules["torch"] = torch
_encoder: Any = ModuleType("windrow.worker.engines.text.encoder")
_encoder.EncoderEngine = QuotingEngine
sys.modules[_encoder.__name__] = _encoder
