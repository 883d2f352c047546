"""How long an answer takes to generate, as measured, and so whether one that has a deadline is worth starting.

One that starts too late costs the device some steps; one that is refused teaches nothing. So where this errs it expects
too little, it forgets what is not measured any more, and where nobody runs the next one is let run.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Weight of the last answer in the averages, once there were enough of them.
LAST = 0.1
#: After so long without an answer, half of what was measured is expected.
HALF_LIFE_S = 10.0


@dataclass(frozen=True, slots=True)
class GenerationTime:
    """Averages over the answers that ended here; nothing is known at first."""

    answers: int = 0
    #: When the last of them ended.
    ended_s: float = 0.0
    #: From the start to the first token, in seconds, where no room had to be waited for; None before the first such.
    first_s: float | None = None
    #: From one token to the next, in seconds, and how many requests ran meanwhile.
    token_s: float = 0.0
    running: float = 1.0
    #: Of an answer.
    tokens: float = 0.0

    def ended(self, now_s: float, running: int, tokens: int, first_s: float | None, rest_s: float) -> GenerationTime:
        """Learn from an answer of ``tokens``, one of ``running``: the first came after ``first_s``, the others within
        ``rest_s`` more. ``first_s`` is None where it had to wait for room, which says nothing of one that need not.
        """
        # Of two answers each counts half: the first after a start is often a slow one.
        weight = max(LAST, 1 / (self.answers + 1))
        first_s = self.first_s if first_s is None else _mix(self.first_s, first_s, weight)
        token_s, beside = self.token_s, self.running
        if tokens > 1:
            token_s, beside = _mix(token_s, rest_s / (tokens - 1), weight), _mix(beside, running, weight)
        return GenerationTime(self.answers + 1, now_s, first_s, token_s, beside, _mix(self.tokens, tokens, weight))

    def expected_s(self, now_s: float, running: int, at_least: int, at_most: int) -> float:
        """Seconds until an answer of so many tokens would have ended, started now beside ``running`` others; 0 while
        nothing is known, and beside nobody.
        """
        if not running or not self.answers:
            return 0.0
        tokens = min(float(at_most), max(float(at_least), self.tokens))
        # Steps for fewer are no slower; those for more are not known to be.
        token_s = self.token_s * min(1.0, (running + 1) / self.running)
        counts: float = 0.5 ** (max(0.0, now_s - self.ended_s) / HALF_LIFE_S)
        return counts * ((self.first_s or 0.0) + token_s * max(0.0, tokens - 1))


def _mix(old: float | None, last: float, weight: float) -> float:
    return last if old is None else old + weight * (last - old)
