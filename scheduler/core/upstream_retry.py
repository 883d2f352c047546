"""Decides when to send a request again that an upstream server did not accept."""

from __future__ import annotations

from windrow.backoff import Backoff

BACKOFF = Backoff(first_s=0.25, max_s=15.0)
#: Statuses of a server that may accept the same request later: it is busy, or its proxy cannot reach it.
TEMPORARY_STATUSES = frozenset({408, 425, 429, 502, 503, 504})


def retry_pause_s(tries: int, spent_s: float, give_up_s: float, fraction: float, after_s: float | None) -> float | None:
    """Return the seconds to wait before the next try, or None if that exceeds ``give_up_s`` in total.

    ``tries`` have taken ``spent_s`` so far. ``after_s`` is the ``Retry-After`` of the server, which is the least to
    wait. ``fraction`` is a random number from 0 to 1; see `Backoff.pause_s`.
    """
    pause_s = BACKOFF.pause_s(tries, fraction) if after_s is None else after_s + BACKOFF.first_s * fraction
    return None if spent_s + pause_s > give_up_s else pause_s
