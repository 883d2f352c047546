"""Counters of a gateway."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class GatewayStats:
    """Sums over batches."""

    batches: int = 0
    requests: int = 0
    seconds: float = 0.0

    def add(self, requests: int, seconds: float) -> None:
        """Count one batch of ``requests`` requests that took ``seconds``."""
        self.batches += 1
        self.requests += requests
        self.seconds += seconds

    def describe(self, queue_depth: int) -> dict[str, float]:
        """Return the ``batching`` of `InferenceGateway.health`; averages are 0 before the first batch."""
        batches = max(1, self.batches)
        return {
            "total_batches": self.batches,
            "total_requests": self.requests,
            "avg_batch_size": self.requests / batches,
            "avg_batch_duration_ms": self.seconds * 1e3 / batches,
            "queue_depth": queue_depth,
        }
