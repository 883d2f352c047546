"""How long an answer takes to generate, as measured, and so whether one that has a deadline is worth starting."""

from __future__ import annotations

from dataclasses import dataclass

#: Weight of the last answer in the averages.
LAST = 0.1


@dataclass(frozen=True, slots=True)
class TokenPace:
    """Averages over the answers that ended here; nothing is known at first."""

    #: From the start to the first token, in seconds; None before the first answer.
    first_s: float | None = None
    #: From one token to the next, in seconds.
    token_s: float = 0.0
    #: Of an answer.
    tokens: float = 0.0

    def ended(self, tokens: int, first_s: float, rest_s: float) -> TokenPace:
        """Learn from an answer of ``tokens``: the first came after ``first_s``, the others within ``rest_s`` more."""
        token_s = rest_s / (tokens - 1) if tokens > 1 else self.token_s
        if self.first_s is None:
            return TokenPace(first_s, token_s, tokens)
        return TokenPace(_mix(self.first_s, first_s), _mix(self.token_s, token_s), _mix(self.tokens, tokens))

    def expected_s(self, at_least: int, at_most: int) -> float:
        """Seconds until an answer of so many tokens would have ended, started now; 0 while nothing is known."""
        if self.first_s is None:
            return 0.0
        tokens = min(float(at_most), max(float(at_least), self.tokens))
        return self.first_s + self.token_s * max(0.0, tokens - 1)


def _mix(old: float, last: float) -> float:
    return old + LAST * (last - old)
