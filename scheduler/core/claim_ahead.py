"""When to claim the next row while one runs.

As late as possible, so that what comes meanwhile and is more urgent is in it; as early as the device needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: A row that is over sooner leaves no time to wait for anything, in seconds.
SHORT_ROW_S = 0.02
#: On top of what was measured: threads that wake up, and the round trip of a claim that found nothing at first.
MARGIN_S = 0.004
#: Weight of the last row in the averages.
LAST = 0.3


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows run and are made ready, averaged; nothing is known at first.

    A row takes as long as the last ones, where the device is not full, or as long as its tokens say. Whichever was
    mistaken less is believed.
    """

    #: Seconds of a row, and of a token on the device; None before the first row.
    row_s: float | None = None
    token_s: float = 0.0
    #: By how much each of them was mistaken about a row, in seconds.
    row_mistake_s: float = 0.0
    token_mistake_s: float = 0.0
    #: From asking Redis for a row to having it ready, in seconds.
    prepare_s: float = 0.0

    def ran(self, tokens: int, seconds: float) -> Pace:
        """Learn from a row of ``tokens`` that ran for ``seconds``."""
        token_s = seconds / max(1, tokens)
        if self.row_s is None:
            return replace(self, row_s=seconds, token_s=token_s)
        return replace(
            self,
            row_s=_mix(self.row_s, seconds),
            token_s=_mix(self.token_s, token_s),
            row_mistake_s=_mix(self.row_mistake_s, abs(seconds - self.row_s)),
            token_mistake_s=_mix(self.token_mistake_s, abs(seconds - tokens * self.token_s)),
        )

    @property
    def is_short(self) -> bool:
        """Whether rows are over sooner than the next is sure to be ready, or than it is worth to wait for anything."""
        return self.row_s is not None and self.row_s < max(SHORT_ROW_S, self._lead_s)

    @property
    def _lead_s(self) -> float:
        return 2 * self.prepare_s + MARGIN_S

    def prepared(self, seconds: float) -> Pace:
        """Learn how long a row took to be made ready."""
        return replace(self, prepare_s=_mix(self.prepare_s, seconds))

    def claim_in_s(self, running_tokens: int, runs_for_s: float) -> float:
        """Seconds until the next row is to be claimed, while one of ``running_tokens`` runs since ``runs_for_s``."""
        if self.row_s is None:
            return 0.0
        by_row, by_token = (self.row_mistake_s, self.row_s), (self.token_mistake_s, running_tokens * self.token_s)
        mistake_s, expected_s = min(by_row, by_token)
        if expected_s < SHORT_ROW_S:
            return 0.0
        return max(0.0, expected_s - runs_for_s - self._lead_s - 2 * mistake_s)


def _mix(old: float, last: float) -> float:
    return old + LAST * (last - old)
