"""What workers observe, added up in Redis over all of them, for the metrics of the API.

One hash a model, ``windrow:<model>:observed``: ``tokens:<kind>``, ``batches:<closed by>``, ``preemptions``, and of each
histogram ``<name>:<bucket>`` and ``<name>:us``, the sum in millionths of its unit.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError

from windrow.scheduler.queue.keys import queue_key

log = logging.getLogger(__name__)
#: Upper bounds of the buckets, in seconds; what is above the last counts in one more.
TIME_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
FIRST_TOKEN_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
INTER_TOKEN_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
#: Of every model: where the time of a request went.
TIMES = ("queue", "batch_wait", "compute", "request")
BOUNDS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(TIMES, TIME_BOUNDS_S),
    "batch_size": tuple(2.0**power for power in range(12)),
    "batch_tokens": tuple(2.0**power for power in range(4, 19)),
    "padding_ratio": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    "first_token": FIRST_TOKEN_BOUNDS_S,
    "inter_token": INTER_TOKEN_BOUNDS_S,
}
#: ``cached`` are those of the prompt that were not computed again.
TOKEN_KINDS = ("prompt", "cached", "completion")
#: Why the window of a row closed; see `windrow.scheduler.core.window`.
CLOSED_BY = ("size", "tokens", "wait", "idle")


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each bucket was hit, and the sum of what was observed."""

    bounds: tuple[float, ...]
    #: One more than there are bounds.
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What the workers of one model have observed so far."""

    #: By each of `TOKEN_KINDS`.
    tokens: Mapping[str, int]
    #: By each of `CLOSED_BY`.
    batches: Mapping[str, int]
    #: How often a sequence made room for another.
    preemptions: int
    #: By each name of `BOUNDS`.
    histograms: Mapping[str, Histogram]


class Observations:
    """What one process observed and has not stored yet. Safe for several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count_tokens(self, kind: str, tokens: int) -> None:
        """Count tokens of one of `TOKEN_KINDS`."""
        with self._lock:
            self._counts[f"tokens:{kind}"] += tokens

    def count_batch(self, closed_by: str) -> None:
        """Count a batch, by why its window closed."""
        with self._lock:
            self._counts[f"batches:{closed_by}"] += 1

    def count_preemptions(self, count: int) -> None:
        """Count sequences that made room."""
        with self._lock:
            self._counts["preemptions"] += count

    def observe(self, name: str, value: float, times: int = 1) -> None:
        """Count a value in the histogram ``name`` of `BOUNDS`, so many times."""
        with self._lock:
            self._counts[f"{name}:{bisect_left(BOUNDS[name], value)}"] += times
            self._counts[f"{name}:us"] += max(0, round(value * 1e6) * times)

    def observe_each(self, name: str, values: Sequence[float]) -> None:
        """Count each of at least one ``values``: sorted, so that their number costs next to nothing."""
        ordered, bounds = sorted(values), BOUNDS[name]
        with self._lock:
            counts = self._counts
            # A clock that was set may make a duration negative, which no sum of a histogram may be.
            counts[f"{name}:us"] += max(0, round(sum(ordered) * 1e6))
            done, bucket = 0, bisect_left(bounds, ordered[0])
            while done < len(ordered):
                up_to = bisect_right(ordered, bounds[bucket], done) if bucket < len(bounds) else len(ordered)
                if up_to > done:
                    counts[f"{name}:{bucket}"] += up_to - done
                done, bucket = up_to, bucket + 1

    def take_out(self) -> Counter[str]:
        """Everything since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def put_back(self, counts: Counter[str]) -> None:
        """Have again what could not be stored."""
        with self._lock:
            self._counts.update(counts)


def store_observations(redis: Redis, model: str, counts: Mapping[str, int]) -> None:
    """Add to what is there, all of it or nothing: where this raises, the caller may try all of it again.

    What Redis would refuse each time, a sum beyond 64 bits say, is dropped with a warning. Where the connection is lost
    behind a transaction that Redis had carried out, all of it is counted twice: the next one would have to carry a
    number that Redis keeps for each process, and that is more than a rare second of metrics is worth.
    """
    pipe = redis.pipeline()
    for field, count in counts.items():
        pipe.hincrby(queue_key(model, "observed"), field, count)
    # A command that fails inside a transaction does not undo the others, so it must not be raised as if it did.
    for field, reply in zip(counts, pipe.execute(raise_on_error=False), strict=True):
        if isinstance(reply, ResponseError):
            log.warning("model %s: what was observed of %s is lost, Redis refuses it: %s", model, field, reply)


def read_observations(redis: Redis, model: str) -> Observed:
    """What all workers of ``model`` have stored."""
    found = cast(dict[bytes, bytes], redis.hgetall(queue_key(model, "observed")))
    counts = Counter({field.decode(): int(count) for field, count in found.items()})
    histograms = {
        name: Histogram(
            bounds,
            tuple(counts[f"{name}:{bucket}"] for bucket in range(len(bounds) + 1)),
            counts[f"{name}:us"] / 1e6,
        )
        for name, bounds in BOUNDS.items()
    }
    return Observed(
        {kind: counts[f"tokens:{kind}"] for kind in TOKEN_KINDS},
        {why: counts[f"batches:{why}"] for why in CLOSED_BY},
        counts["preemptions"],
        histograms,
    )
