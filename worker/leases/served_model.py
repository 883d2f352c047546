"""`ServedModel`: the common interface of models whose requests run in batches and of models that generate."""

from __future__ import annotations

from typing import Protocol

from windrow.worker.engines.base import EngineBase
from windrow.worker.leases.leases import Leases
from windrow.worker.process.model_status import ModelStatus


class ServedModel(Protocol):
    """One loaded model, the requests that this process holds for it, and what it reports."""

    leases: Leases
    status: ModelStatus

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def engine(self) -> EngineBase:
        """The engine that runs the model; a reload replaces it."""
        ...

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Send a heartbeat; ``busy_s`` is how long the loop has worked on one batch or step, in seconds."""
        ...

    def store_observations(self) -> None:
        """Add the observations for the metrics to those of all workers."""
        ...
