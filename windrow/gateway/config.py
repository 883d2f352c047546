"""`InferenceConfig`: the batching options of an `InferenceGateway`, and three presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windrow.errors import InvalidSetting
from windrow.scheduler.config.fields import MAX_WAIT_MS
from windrow.scheduler.core.learned_window import window_limits
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """How requests are batched. Raises `InvalidSetting` that names the field and the accepted values."""

    #: If False, each request runs alone, in order of arrival.
    enable_batching: bool = True
    #: Maximum requests per batch.
    max_batch_size: int = 32
    #: The batching window: how long the first request waits for others; ``"auto"`` learns it from the traffic.
    max_batch_wait_ms: float | Literal["auto"] = 5.0
    #: Maximum tokens per batch, padding included; an input of a plain function counts as one token.
    max_batch_tokens: int = 16_384
    #: Maximum queued requests; further requests are refused.
    max_queue_size: int = 1_000

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_batch_tokens", "max_queue_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidSetting(f"{name}: takes a whole number from 1 (got {value!r})")
        wait_ms = self.max_batch_wait_ms
        is_number = isinstance(wait_ms, (int, float)) and not isinstance(wait_ms, bool)
        if wait_ms != "auto" and not (is_number and 0 <= wait_ms <= MAX_WAIT_MS):
            raise InvalidSetting(
                f'max_batch_wait_ms: takes milliseconds from 0 to {MAX_WAIT_MS}, or "auto" (got {wait_ms!r})'
            )

    @classmethod
    def high_rate(cls) -> InferenceConfig:
        """Return options for continuous traffic: large batches, a learned window and a long queue."""
        return cls(max_batch_size=64, max_batch_wait_ms="auto", max_queue_size=10_000)

    @classmethod
    def low_rate(cls) -> InferenceConfig:
        """Return options for occasional groups of requests, which share a batch after a window of 20 ms."""
        return cls(max_batch_size=8, max_batch_wait_ms=20.0)

    @classmethod
    def low_latency(cls) -> InferenceConfig:
        """Return options for short batches without a window; requests that arrive during a batch share the next one."""
        return cls(max_batch_size=8, max_batch_wait_ms=0.0)

    @property
    def window(self) -> WindowLimits:
        """Limits that close a batch buffer."""
        if not self.enable_batching:
            return WindowLimits(1, self.max_batch_tokens, 0.0)
        wait_s = None if self.max_batch_wait_ms == "auto" else self.max_batch_wait_ms / 1e3
        return window_limits(self.max_batch_size, self.max_batch_tokens, wait_s)

    @property
    def batch_limits(self) -> BatchLimits:
        """Limits of one batch."""
        return BatchLimits(self.window.max_batch_size, self.max_batch_tokens)
