"""When to send a request again that a server of somebody else's did not take."""

from __future__ import annotations

FIRST_S, LONGEST_S = 0.25, 15.0
#: Statuses of a server that may take the same request later: busy, or not there behind its proxy.
PASSING = frozenset({408, 425, 429, 502, 503, 504})


def retry_pause_s(tries: int, spent_s: float, give_up_s: float, fraction: float, after_s: float | None) -> float | None:
    """Seconds to wait after ``tries`` tries that took ``spent_s``; None where it is to be given up after ``give_up_s``.

    ``after_s`` is what the server asked for (``Retry-After``), which is waited for at least. ``fraction`` in [0, 1] is
    drawn by the caller: requests that were refused together must not come back in step.
    """
    longest_s = min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 16))
    pause_s = longest_s * (0.5 + 0.5 * fraction)
    if after_s is not None:
        pause_s = after_s + FIRST_S * fraction
    return None if spent_s + pause_s > give_up_s else pause_s
