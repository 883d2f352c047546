"""When to claim the next row while one runs.

As late as possible, so that what comes meanwhile and is more urgent is in it; as early as the device needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: A row that is over sooner leaves no time to wait for anything, in seconds.
SHORT_ROW_S = 0.02
#: On top of what was measured: a claim's round trip and a thread's wake-up, in seconds.
MARGIN_S = 0.004
#: Weight of the last row in the averages.
LAST = 0.3


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows run and are made ready, averaged; nothing is known at first."""

    #: Seconds a token takes on the device; None before the first row.
    token_s: float | None = None
    #: By how much the length of a row was mistaken, in seconds.
    mistake_s: float = 0.0
    #: From a claim to a row that is ready, in seconds.
    prepare_s: float = 0.0

    def ran(self, tokens: int, seconds: float) -> Pace:
        """Learn from a row of ``tokens`` that ran for ``seconds``."""
        now_s = seconds / max(1, tokens)
        if self.token_s is None:
            return replace(self, token_s=now_s)
        mistake_s = abs(seconds - tokens * self.token_s)
        return replace(self, token_s=_mix(self.token_s, now_s), mistake_s=_mix(self.mistake_s, mistake_s))

    def prepared(self, seconds: float) -> Pace:
        """Learn how long a row took to be made ready."""
        return replace(self, prepare_s=_mix(self.prepare_s, seconds))

    def claim_in_s(self, running_tokens: int, runs_for_s: float) -> float:
        """Seconds until the next row is to be claimed, while one of ``running_tokens`` runs since ``runs_for_s``."""
        if self.token_s is None:
            return 0.0
        expected_s = running_tokens * self.token_s
        if expected_s < SHORT_ROW_S:
            return 0.0
        return max(0.0, expected_s - runs_for_s - 2 * self.prepare_s - 2 * self.mistake_s - MARGIN_S)


def _mix(old: float, last: float) -> float:
    return old + LAST * (last - old)
