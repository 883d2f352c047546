"""What workers observe of generation, added up in Redis over all of them, for the metrics of the API.

One hash a model, ``windrow:<model>:observed``: ``tokens:<kind>``, and of each histogram ``<name>:<bucket>`` and
``<name>:us``, the sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from redis import Redis

from scheduler.queue.keys import queue_key

#: Upper bounds of the buckets, in seconds; what is above the last counts in one more.
FIRST_TOKEN_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
INTER_TOKEN_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
BOUNDS_S = {"first_token": FIRST_TOKEN_BOUNDS_S, "inter_token": INTER_TOKEN_BOUNDS_S}
#: ``cached`` are those of the prompt that were not computed again.
TOKEN_KINDS = ("prompt", "cached", "completion")


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each bucket was hit, and the sum of what was observed."""

    bounds_s: tuple[float, ...]
    #: One more than there are bounds.
    counts: tuple[int, ...]
    sum_s: float


class Observations:
    """What one process observed and has not stored yet. The caller sees to the locking."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count_tokens(self, kind: str, tokens: int) -> None:
        """Count tokens of one of `TOKEN_KINDS`."""
        self._counts[f"tokens:{kind}"] += tokens

    def observe(self, name: str, seconds: float, times: int = 1) -> None:
        """Count a duration in the histogram ``name`` of `BOUNDS_S`, so many times."""
        self._counts[f"{name}:{bisect_left(BOUNDS_S[name], seconds)}"] += times
        self._counts[f"{name}:us"] += round(seconds * 1e6) * times

    def take_out(self) -> Counter[str]:
        """Everything since the last call."""
        counts, self._counts = self._counts, Counter()
        return counts

    def put_back(self, counts: Counter[str]) -> None:
        """Have again what could not be stored."""
        self._counts += counts


def store_observations(redis: Redis, model: str, counts: Mapping[str, int]) -> None:
    """Add to what is there, in one round trip."""
    pipe = redis.pipeline(transaction=False)
    for field, count in counts.items():
        pipe.hincrby(queue_key(model, "observed"), field, count)
    pipe.execute()


def read_observations(redis: Redis, model: str) -> tuple[dict[str, int], dict[str, Histogram]]:
    """Tokens by kind, and the histograms by name."""
    found = cast(dict[bytes, bytes], redis.hgetall(queue_key(model, "observed")))
    counts = Counter({field.decode(): int(count) for field, count in found.items()})
    histograms = {
        name: Histogram(
            bounds_s,
            tuple(counts[f"{name}:{bucket}"] for bucket in range(len(bounds_s) + 1)),
            counts[f"{name}:us"] / 1e6,
        )
        for name, bounds_s in BOUNDS_S.items()
    }
    return {kind: counts[f"tokens:{kind}"] for kind in TOKEN_KINDS}, histograms
