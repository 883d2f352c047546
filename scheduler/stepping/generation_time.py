"""Expected duration of a generation, from measurements; decides whether a request can still meet its deadline.

Starting a request that misses its deadline costs the device some steps; refusing one yields no measurement. So the
estimate is rather too low than too high: it decays while nothing is measured, and an idle engine refuses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from windrow.errors import DeadlineExceeded
from windrow.scheduler.core.outcomes import Failed

#: Smallest weight of a new measurement in the averages.
MIN_WEIGHT = 0.1
#: Without measurements, the expected time halves after this many seconds.
HALF_LIFE_S = 10.0


@dataclass(frozen=True, slots=True)
class GenerationTime:
    """Moving averages over the requests that generated text and finished in this process."""

    generations: int = 0
    #: When the last one finished, in seconds of the caller's clock.
    measured_s: float = 0.0
    #: Time from start to first token of requests that did not wait for a slot, in seconds; None before the first.
    first_s: float | None = None
    #: Time between two tokens, in seconds, and the number of requests that ran meanwhile.
    token_s: float = 0.0
    running: float = 1.0
    #: Generated tokens.
    tokens: float = 0.0

    def record(self, now_s: float, running: int, tokens: int, first_s: float | None, rest_s: float) -> GenerationTime:
        """Return the averages with one more generation of ``tokens``, which ran with ``running`` requests in total.

        ``first_s`` is the time to the first token, or None if the request waited for a slot; ``rest_s`` is the time
        from the first token to the last.
        """
        # The first generations have equal weights, because the first one after a start is often slow.
        weight = max(MIN_WEIGHT, 1 / (self.generations + 1))
        first_s = self.first_s if first_s is None else _mix(self.first_s, first_s, weight)
        token_s, mean_running = self.token_s, self.running
        if tokens > 1:
            token_s = _mix(token_s, rest_s / (tokens - 1), weight)
            mean_running = _mix(mean_running, running, weight)
        mean_tokens = _mix(self.tokens, tokens, weight)
        return GenerationTime(self.generations + 1, now_s, first_s, token_s, mean_running, mean_tokens)

    def expected_s(self, now_s: float, running: int, min_tokens: int, max_tokens: int) -> float:
        """Return the expected seconds to generate ``min_tokens`` to ``max_tokens`` while ``running`` others run.

        Returns 0 before the first measurement, and if no other request runs.
        """
        if not running or not self.generations:
            return 0.0
        tokens = min(float(max_tokens), max(float(min_tokens), self.tokens))
        # Steps with fewer requests take at most proportionally less; those with more are not extrapolated.
        token_s = self.token_s * min(1.0, (running + 1) / self.running)
        decay: float = 0.5 ** (max(0.0, now_s - self.measured_s) / HALF_LIFE_S)
        return decay * ((self.first_s or 0.0) + token_s * max(0.0, tokens - 1))

    def refuse_late(self, left_s: float, now_s: float, running: int, min_tokens: int, max_tokens: int) -> Failed | None:
        """Return the error for a request that cannot end within the ``left_s`` seconds before its deadline, or None."""
        needed_s = self.expected_s(now_s, running, min_tokens, max_tokens)
        if needed_s <= left_s:
            return None
        return Failed(
            DeadlineExceeded(
                f"not started: generating takes about {needed_s:.1f} s, and the deadline was {left_s:.1f} s away"
            )
        )


def _mix(mean: float | None, value: float, weight: float) -> float:
    return value if mean is None else mean + weight * (value - mean)
