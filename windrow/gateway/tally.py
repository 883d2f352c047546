"""What a gateway has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class GatewayStats:
    """Sums over passes."""

    batches: int = 0
    requests: int = 0
    seconds: float = 0.0

    def add(self, requests: int, seconds: float) -> None:
        """Count one pass of so many requests."""
        self.batches += 1
        self.requests += requests
        self.seconds += seconds

    def describe(self, queue_depth: int) -> dict[str, float]:
        """The ``batching`` of `InferenceGateway.health`; averages are 0 before the first pass."""
        passes = max(1, self.batches)
        return {
            "total_batches": self.batches,
            "total_requests": self.requests,
            "avg_batch_size": self.requests / passes,
            "avg_batch_duration_ms": self.seconds * 1e3 / passes,
            "queue_depth": queue_depth,
        }
