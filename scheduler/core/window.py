"""When to close the window of a batch buffer.

The window opens when the first request in the buffer arrives. It closes when the buffer holds enough requests or tokens
for one batch, when ``max_wait_s`` has passed, or, if the device is idle, as soon as no further request is expected.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple

#: An idle device stops waiting if it expects fewer than this many requests in the rest of the window.
MIN_EXPECTED_REQUESTS = 0.5
#: Observations older than this many windows have lost most (1 - 1/e) of their weight.
MEMORY_WINDOWS = 8.0


class JoinRate(NamedTuple):
    """How many requests arrive per second while another request waits or runs.

    Only then can waiting pay. Time in which nothing waits or runs does not count, so a single client that sends its
    next request after each answer yields a rate of zero. Before the first observation the rate is one request per
    window, so that a configured window is used.
    """

    requests: float
    observed_s: float

    @staticmethod
    def unknown(max_wait_s: float) -> JoinRate:
        """The rate before the first observation: one request per window."""
        return JoinRate(requests=1.0, observed_s=max_wait_s)

    def observe(self, requests: int, observed_s: float, max_wait_s: float) -> JoinRate:
        """Add ``requests`` arrivals in ``observed_s`` seconds and reduce the weight of older observations."""
        keep = 1.0 / (1.0 + observed_s / (MEMORY_WINDOWS * max_wait_s)) if max_wait_s > 0 else 0.0
        return JoinRate(self.requests * keep + requests, self.observed_s * keep + observed_s)

    def expected(self, seconds: float) -> float:
        """Number of requests expected to arrive in the next ``seconds``."""
        return self.requests * seconds / self.observed_s if self.observed_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What closes a window."""

    max_batch_size: int
    #: In the unit of cost of the model's task, which is tokens for text.
    max_batch_tokens: int
    max_wait_s: float
    #: Whether the wait is learned and ``max_wait_s`` is its upper bound; see `windrow.scheduler.core.learned_window`.
    is_learned: bool = False


class Close(NamedTuple):
    """Close the window and run its requests now."""

    #: ``size``, ``tokens``, ``wait`` or ``idle``; the label of ``windrow_batches_total``.
    closed_by: str


class Wait(NamedTuple):
    """Do nothing yet; decide again when something changes, or at ``until_s``."""

    #: Infinite if only a change can lead to another decision.
    until_s: float


def decide_window(
    now_s: float, opened_s: float, count: int, cost: int, limits: WindowLimits, rate: JoinRate | None
) -> Close | Wait:
    """Decide whether an idle device runs the ``count`` >= 1 requests of its buffer now.

    ``opened_s`` is the arrival of the buffer's first request and ``cost`` is the sum of all costs. While the device is
    busy there is nothing to decide, and the buffer grows. Without a ``rate`` the whole window is used; a learned wait
    already accounts for how likely further requests are (`windrow.scheduler.core.learned_window`).
    """
    if count >= limits.max_batch_size:
        return Close("size")
    if cost >= limits.max_batch_tokens:
        return Close("tokens")
    ends_s = opened_s + limits.max_wait_s
    if now_s >= ends_s:
        return Close("wait")
    if rate is not None and rate.expected(ends_s - now_s) < MIN_EXPECTED_REQUESTS:
        return Close("idle")
    return Wait(ends_s)


def take_count(costs: Sequence[int], limits: WindowLimits) -> int:
    """Return how many requests from the front of the buffer run now: at least one, at most what both limits allow."""
    sums = list(accumulate(islice(costs, limits.max_batch_size)))
    return max(bisect_right(sums, limits.max_batch_tokens), min(1, len(sums)))
