"""Exponential backoff with jitter and a cap, for everything that waits before it tries again."""

from __future__ import annotations

from dataclasses import dataclass

#: Beyond this exponent, every pause has reached its cap.
MAX_EXPONENT = 16


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses of ``first_s``, ``first_s * factor``, ``first_s * factor**2``, ... seconds, at most ``max_s``.

    Each pause is multiplied by a number between ``jitter[0]`` and ``jitter[1]``, so that callers that failed together
    do not return together.
    """

    first_s: float
    max_s: float
    factor: float = 2.0
    jitter: tuple[float, float] = (0.5, 1.0)

    def pause_s(self, failures: int, fraction: float) -> float:
        """Return the pause after a number of consecutive ``failures`` (from 1), in seconds.

        ``fraction`` (0 to 1) selects a point in the range of the jitter; pass a random number.
        """
        pause_s = min(self.max_s, self.first_s * self.factor ** min(failures - 1, MAX_EXPONENT))
        low, high = self.jitter
        return pause_s * (low + (high - low) * fraction)
