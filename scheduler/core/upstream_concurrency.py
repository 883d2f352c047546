"""The concurrency limit of an upstream server, learned from the time to the first token.

A server that receives more requests than it runs lets the others wait, which increases the time to the first token. So
the limit grows while answers begin about as early as ever, and is cut if they begin late or are refused: additive
increase, multiplicative decrease, as in TCP (Chiu and Jain, 1989). A cut goes well below the present load, so that no
request waits for a while and the shortest time is measured again. Otherwise waiting would be taken for normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Requests wait at the server if answers begin this many times later than the earliest ones, on average.
LATE_RATIO = 1.8
#: Factor of the limit at a cut; less than 1 / LATE_RATIO.
CUT_FACTOR = 0.5
#: Weight of one answer in the average.
ANSWER_WEIGHT = 0.25
#: Fraction by which a cut increases the shortest times, so that a server that became slower is recognized after a few.
FORGET_FRACTION = 0.25
#: Times to the first token below this many seconds count as equal.
MIN_FIRST_TOKEN_S = 0.02
#: Number of classes of prompt sizes, by powers of two.
PROMPT_SIZES = 24


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """The limit and the measurements it is based on. It begins at 1 and stays between 1 and ``max_limit``."""

    max_limit: int
    limit: float = 1.0
    #: Shortest time to the first token for prompts of up to 1, 2, 4, ... tokens. Long prompts take longer without any
    #: waiting.
    shortest_s: tuple[float, ...] = (math.inf,) * PROMPT_SIZES
    #: Time to the first token divided by the shortest time, averaged since the last cut.
    lateness: float = 1.0
    #: Time of the last cut. Requests that were sent before it do not cause another one.
    cut_s: float = -math.inf

    @property
    def allowed(self) -> int:
        """Maximum number of concurrent requests."""
        return max(1, min(self.max_limit, math.floor(self.limit)))

    def answered(self, first_s: float, prompt_tokens: int, running: int, now_s: float) -> ConcurrencyLimit:
        """Return the limit after an answer that began ``first_s`` seconds after its request was sent.

        ``running`` is the number of concurrent requests, including this one.
        """
        size = min(prompt_tokens.bit_length(), PROMPT_SIZES - 1)
        shortest_s = min(first_s, self.shortest_s[size])
        learned = replace(self, shortest_s=(*self.shortest_s[:size], shortest_s, *self.shortest_s[size + 1 :]))
        if now_s - first_s < self.cut_s:
            return learned
        ratio = first_s / max(shortest_s, MIN_FIRST_TOKEN_S)
        learned = replace(learned, lateness=learned.lateness + ANSWER_WEIGHT * (ratio - learned.lateness))
        if learned.lateness > LATE_RATIO:
            return learned._cut(now_s)
        if ratio > LATE_RATIO or running < self.allowed:
            return learned  # a higher limit would increase waiting, or would not be used
        # By one per answer until the first cut; afterwards more slowly, and the more slowly the higher the limit.
        increase = 1.0 if self.cut_s == -math.inf else 1.0 / math.sqrt(self.limit)
        return replace(learned, limit=min(float(self.max_limit), self.limit + increase))

    def refused(self, started_s: float, now_s: float) -> ConcurrencyLimit:
        """Return the limit after the server refused a request that was sent at ``started_s``, or was unreachable."""
        return self if started_s < self.cut_s else self._cut(now_s)

    def _cut(self, now_s: float) -> ConcurrencyLimit:
        shortest_s = tuple(seconds * (1 + FORGET_FRACTION) for seconds in self.shortest_s)
        return replace(self, limit=max(1.0, self.limit * CUT_FACTOR), shortest_s=shortest_s, lateness=1.0, cut_s=now_s)
