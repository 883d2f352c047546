"""How many requests a server of somebody else's is given at a time, learnt from how soon it begins to answer.

A server that is given more than it works on lets the rest wait, and that shows in the time to the first token. So the
limit grows while answers begin about as soon as ever, and is cut where they begin late or are refused: additive
increase, multiplicative decrease, as TCP has it (Chiu and Jain, 1989). A cut goes below what made it necessary, so that
nobody waits for a while and what "soon" means is measured anew: a limit that settled at the edge would take waiting for
normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Answers that begin so many times later than the soonest ones, on average, show that requests wait there.
LATE = 1.8
#: What a cut leaves of the limit. Less than 1 / LATE, see above.
CUT = 0.5
#: Weight of one answer in the average.
LAST = 0.25
#: The soonest time is forgotten by so much at a cut, and measured again after it: a server that became slower for good
#: is believed after a few cuts.
FORGET = 0.25
#: What is sooner than this is soon enough, in seconds.
UNNOTICED_S = 0.02
#: Sizes of prompts that are told apart, by powers of two.
PROMPT_SIZES = 24


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """What was learnt so far; begins at 1, where nobody waits for anybody, and stays within that and ``most``."""

    most: int
    limit: float = 1.0
    #: The least time to a first token of prompts of up to 1, 2, 4, ... tokens: a long one is read
    #: for longer, which is no sign of others that wait.
    soonest_s: tuple[float, ...] = (math.inf,) * PROMPT_SIZES
    #: How many times later than that answers began, averaged since the last cut.
    lateness: float = 1.0
    #: When the limit was cut last; requests from before say nothing new of it.
    cut_s: float = -math.inf

    @property
    def allowed(self) -> int:
        """Requests that may run at a time."""
        return max(1, min(self.most, math.floor(self.limit)))

    def answered(self, first_s: float, prompt_tokens: int, running: int, now_s: float) -> ConcurrencyLimit:
        """Learn from an answer that began ``first_s`` seconds after its request was sent.

        ``running`` requests ran, it among them.
        """
        size = min(prompt_tokens.bit_length(), PROMPT_SIZES - 1)
        soonest_s = min(first_s, self.soonest_s[size])
        learnt = replace(self, soonest_s=(*self.soonest_s[:size], soonest_s, *self.soonest_s[size + 1 :]))
        if now_s - first_s < self.cut_s:
            return learnt
        ratio = first_s / max(soonest_s, UNNOTICED_S)
        learnt = replace(learnt, lateness=learnt.lateness + LAST * (ratio - learnt.lateness))
        if learnt.lateness > LATE:
            return learnt._cut(now_s)
        if ratio > LATE or running < self.allowed:
            return learnt  # more would make it worse, or would not have been used
        # By one an answer until the first cut, then more slowly, the more there are.
        more = 1.0 if self.cut_s == -math.inf else 1.0 / math.sqrt(self.limit)
        return replace(learnt, limit=min(float(self.most), self.limit + more))

    def refused(self, started_s: float, now_s: float) -> ConcurrencyLimit:
        """Learn that a request which was sent at ``started_s`` was turned away, or found nobody there, at ``now_s``."""
        return self if started_s < self.cut_s else self._cut(now_s)

    def _cut(self, now_s: float) -> ConcurrencyLimit:
        soonest_s = tuple(seconds * (1 + FORGET) for seconds in self.soonest_s)
        return replace(self, limit=max(1.0, self.limit * CUT), soonest_s=soonest_s, lateness=1.0, cut_s=now_s)
