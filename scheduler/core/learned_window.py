"""``max_wait_ms = "auto"``: how long a row should wait, learnt from what arrived and from what rows cost.

The last arrivals are played again on a virtual device, once for each wait that might be chosen, and the wait with the
lowest mean latency is taken. So nothing is assumed about the traffic: Poisson arrivals, bursts and clients that ask
again when they are answered each get the wait that would have served them best.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from windrow.scheduler.core.window import WindowLimits

#: Longest wait that is ever chosen, in seconds.
MAX_WAIT_S = 0.050
#: The wait before anything was learnt, in seconds: the default of ``max_wait_ms``.
FIRST_WAIT_S = 0.005
#: What may be chosen, in seconds: none, and steps of a half from 0.25 ms to `MAX_WAIT_S`.
WAITS_S = (0.0, *(MAX_WAIT_S / 1.5**step for step in range(13, -1, -1)))
#: Arrivals that are remembered.
MEMORY = 1024
#: Rows' worth of them that is played again, and the fewest requests in it.
REPLAYED_ROWS, FEWEST_REPLAYED = 64, 64
#: Seconds, and arrivals, from one choice to the next.
CHOOSE_EVERY_S, CHOOSE_EVERY = 1.0, 32
#: Weight of the last replay in what each wait is known to give.
LAST = 0.25
#: A longer wait has to give this share less latency than a shorter one to be chosen.
WORTH_CHANGING = 0.01
#: Weight that a row's evidence keeps with each row after it.
KEEP = 0.98


@dataclass(frozen=True, slots=True)
class WindowCost:
    """Seconds of a row as ``fixed_s + token_s * tokens``: least squares over the last rows, older ones fading.

    The sums are kept, so a row costs a few additions, whatever came before. Where all rows were alike, nothing says
    what a token costs: all of it is taken to be fixed, which is put right by the first row that is not.
    """

    #: Sums over rows, faded: weights, tokens, seconds, tokens squared, tokens times seconds.
    rows: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    tokens_seconds: float = 0.0

    def ran(self, tokens: int, seconds: float) -> WindowCost:
        """Learn from a row of ``tokens`` that ran for ``seconds``."""
        return WindowCost(
            self.rows * KEEP + 1.0,
            self.tokens * KEEP + tokens,
            self.seconds * KEEP + seconds,
            self.tokens_squared * KEEP + tokens * tokens,
            self.tokens_seconds * KEEP + tokens * seconds,
        )

    def fit(self) -> tuple[float, float]:
        """``(fixed_s, token_s)``, neither below 0; both 0 before the first row."""
        if not self.rows:
            return 0.0, 0.0
        mean_tokens, mean_s = self.tokens / self.rows, self.seconds / self.rows
        spread = self.tokens_squared / self.rows - mean_tokens**2
        together = self.tokens_seconds / self.rows - mean_tokens * mean_s
        if spread <= 1e-6 * mean_tokens**2:
            return mean_s, 0.0
        token_s = min(max(0.0, together / spread), mean_s / mean_tokens)
        return mean_s - token_s * mean_tokens, token_s


def mean_latency_s(
    arrived_s: Sequence[float], tokens: Sequence[int], limits: WindowLimits, cost: tuple[float, float], wait_s: float
) -> float:
    """Mean seconds from arrival to the end of the row, had each row waited for ``wait_s`` from its first request.

    ``arrived_s`` is in order, with ``tokens`` beside it; ``cost`` is that of `WindowCost.fit`. Rows close as
    `windrow.scheduler.core.window.decide_window` and `take_count` close them.
    """
    fixed_s, token_s = cost
    until = [0, *accumulate(tokens)]
    count, first, free_s, sum_ended_s = len(arrived_s), 0, arrived_s[0], 0.0
    while first < count:
        # The row is full by its last request by size, or by the one whose tokens reach the budget.
        by_tokens = bisect_left(until, until[first] + limits.max_batch_tokens, first + 1) - 1
        full = min(first + limits.max_batch_size - 1, by_tokens)
        opened_s = arrived_s[first]
        close_s = min(opened_s + wait_s, arrived_s[full]) if full < count else opened_s + wait_s
        start_s = max(free_s, close_s)
        here = bisect_right(arrived_s, start_s, first)
        fit = bisect_right(until, until[first] + limits.max_batch_tokens, first) - 1
        end = min(here, first + limits.max_batch_size, max(fit, first + 1))
        free_s = start_s + fixed_s + token_s * (until[end] - until[first])
        sum_ended_s += free_s * (end - first)
        first = end
    return (sum_ended_s - sum(arrived_s)) / count


class LearnedWindow:
    """The wait of one model, learnt. Told of each arrival and of each row; asked for limits that say the wait."""

    def __init__(self, limits: WindowLimits) -> None:
        """``limits.max_wait_s`` is the longest wait that may be chosen."""
        self._waits_s = [wait_s for wait_s in WAITS_S if wait_s < limits.max_wait_s] + [limits.max_wait_s]
        self.limits = replace(limits, max_wait_s=min(FIRST_WAIT_S, limits.max_wait_s))
        self.cost = WindowCost()
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=MEMORY)
        self._new = 0
        self._row_size = 1.0
        self._chosen_s = float("-inf")
        #: Latency of each wait over that of the best, averaged over replays.
        self._regrets: list[float] | None = None

    def arrived(self, at_s: float, tokens: int) -> None:
        """A request of ``tokens`` was submitted at ``at_s``; in about the order of time."""
        self._arrivals.append((at_s, tokens))
        self._new += 1

    def ran(self, now_s: float, count: int, tokens: int, seconds: float) -> None:
        """A row of ``count`` requests ran for ``seconds`` to ``now_s``; from time to time, choose anew."""
        self.cost = self.cost.ran(tokens, seconds)
        self._row_size += LAST * (count - self._row_size)
        if self._new >= CHOOSE_EVERY and now_s - self._chosen_s >= CHOOSE_EVERY_S:
            self._new, self._chosen_s = 0, now_s
            self._choose()

    def _choose(self) -> None:
        wanted = max(FEWEST_REPLAYED, int(REPLAYED_ROWS * self._row_size))
        last = sorted(list(self._arrivals)[-wanted:])
        arrived_s, tokens = [at_s for at_s, _ in last], [count for _, count in last]
        cost = self.cost.fit()
        means_s = [mean_latency_s(arrived_s, tokens, self.limits, cost, wait_s) for wait_s in self._waits_s]
        best_s = min(means_s)
        if best_s <= 0:
            return
        regrets = [mean_s / best_s for mean_s in means_s]
        old = self._regrets or regrets
        self._regrets = [before + LAST * (now - before) for before, now in zip(old, regrets, strict=True)]
        good = min(self._regrets) * (1 + WORTH_CHANGING)
        chosen = next(index for index, regret in enumerate(self._regrets) if regret <= good)
        self.limits = replace(self.limits, max_wait_s=self._waits_s[chosen])
