"""What an `InferenceGateway` is told, and three presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windrow.errors import InvalidSetting
from windrow.scheduler.config.fields import MAX_WAIT_MS
from windrow.scheduler.core.learned_window import MAX_WAIT_S
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """How requests are put together. Raises `InvalidSetting`, naming the field and what it takes."""

    #: False: one request a pass, in order of arrival.
    enable_batching: bool = True
    #: Requests in a pass.
    max_batch_size: int = 32
    #: How long the first request of a row waits for company; ``"auto"`` learns it from the traffic.
    max_batch_wait_ms: float | Literal["auto"] = 5.0
    #: Tokens of a pass, padding included; each input of a plain function counts as one.
    max_batch_tokens: int = 16_384
    #: Requests that may wait; one more is refused.
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
        """Requests never stop coming: large passes, a window that is learnt, room for many that wait."""
        return cls(max_batch_size=64, max_batch_wait_ms="auto", max_queue_size=10_000)

    @classmethod
    def low_rate(cls) -> InferenceConfig:
        """Now and then a few requests shortly after each other, which share a pass that is worth 20 ms of waiting."""
        return cls(max_batch_size=8, max_batch_wait_ms=20.0)

    @classmethod
    def low_latency(cls) -> InferenceConfig:
        """An idle device never waits, and passes are short; what comes while it is busy shares the next one."""
        return cls(max_batch_size=8, max_batch_wait_ms=0.0)

    @property
    def window(self) -> WindowLimits:
        """What closes a row."""
        if not self.enable_batching:
            return WindowLimits(1, self.max_batch_tokens, 0.0)
        if self.max_batch_wait_ms == "auto":
            return WindowLimits(self.max_batch_size, self.max_batch_tokens, MAX_WAIT_S, is_learned=True)
        return WindowLimits(self.max_batch_size, self.max_batch_tokens, self.max_batch_wait_ms / 1e3)

    @property
    def passes(self) -> BatchLimits:
        """What one pass may hold."""
        return BatchLimits(self.window.max_batch_size, self.max_batch_tokens)
