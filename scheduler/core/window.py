"""When a row that is being filled should go to the device.

The window opens at the first arrival. It closes when the row is full by requests or by tokens, when ``max_wait_s`` is
over, or, on an idle device, as soon as waiting is not expected to bring company.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Company expected in what is left of the window below which an idle device stops waiting, in requests.
WORTH_WAITING_FOR = 0.5
#: Evidence older than this many windows of exposure has lost most (1 - 1/e) of its weight.
MEMORY_WINDOWS = 8.0


@dataclass(frozen=True, slots=True)
class JoinRate:
    """How often requests join while another one waits or runs: the only time when waiting could pay.

    Time with nothing waiting and nothing running is not counted, so that a client that sends its next request only
    after the last answer is seen for what it is: company that never comes. Until something has been seen, one join
    a window is assumed, so that a window somebody configured is used.
    """

    joins: float
    exposure_s: float

    @staticmethod
    def unknown(max_wait_s: float) -> JoinRate:
        """The rate before anything was observed: one request a window."""
        return JoinRate(joins=1.0, exposure_s=max_wait_s)

    def observe(self, joins: int, exposure_s: float, max_wait_s: float) -> JoinRate:
        """Add ``joins`` arrivals seen during ``exposure_s`` seconds, letting old evidence fade."""
        keep = 1.0 / (1.0 + exposure_s / (MEMORY_WINDOWS * max_wait_s)) if max_wait_s > 0 else 0.0
        return JoinRate(self.joins * keep + joins, self.exposure_s * keep + exposure_s)

    def expected(self, seconds: float) -> float:
        """Requests expected to join in the next ``seconds``."""
        return self.joins * seconds / self.exposure_s if self.exposure_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What closes a window."""

    max_batch_size: int
    max_batch_tokens: int
    max_wait_s: float
    #: Whether ``max_wait_s`` is only a bound, and the wait itself is learnt: `windrow.scheduler.core.learned_window`.
    is_learnt: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """Send the row now."""

    #: ``size``, ``tokens``, ``wait`` or ``idle``; the label of ``windrow_batches_total``.
    closed_by: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Keep the window open, and look again after an arrival or ``seconds``, whichever is first."""

    seconds: float


def decide_window(
    now_s: float, opened_s: float, waiting: int, tokens: int, limits: WindowLimits, rate: JoinRate | None
) -> Close | Wait:
    """Decide for a device that is free now and a row of ``waiting`` >= 1 requests with ``tokens`` in all.

    ``opened_s`` is the arrival of the row's first request. A busy device is not asked: the row simply grows. Without a
    ``rate`` the window is used whole: its length was learnt, and knows of the company
    (`windrow.scheduler.core.learned_window`).
    """
    if waiting >= limits.max_batch_size:
        return Close("size")
    if tokens >= limits.max_batch_tokens:
        return Close("tokens")
    left_s = opened_s + limits.max_wait_s - now_s
    if left_s <= 0:
        return Close("wait")
    if rate is not None and rate.expected(left_s) < WORTH_WAITING_FOR:
        return Close("idle")
    return Wait(left_s)


def take_count(lengths: list[int], limits: WindowLimits) -> int:
    """How many requests from the front of the row go now: at least one, at most what both limits allow."""
    tokens = 0
    for count, length in enumerate(lengths[: limits.max_batch_size]):
        tokens += length
        if count and tokens > limits.max_batch_tokens:
            return count
    return min(len(lengths), limits.max_batch_size)
