"""What workers count for the metrics, summed in Redis over all workers.

One hash per model, ``windrow:<model>:observed``, with the fields ``tokens:<kind>``, ``batches:<closed by>`` and
``preemptions``, and for each histogram ``<name>:<bucket>`` and ``<name>:us``, the sum in millionths of its unit.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError

from windrow.scheduler.queue.keys import queue_key
from windrow.scheduler.queue.metrics import BUCKETS, CLOSED_BY, TOKEN_KINDS, Histogram, Observed

log = logging.getLogger(__name__)


class Observations:
    """What one process has counted and not yet stored. Safe for several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count_tokens(self, kind: str, tokens: int) -> None:
        """Count tokens of one of `TOKEN_KINDS`."""
        with self._lock:
            self._counts[f"tokens:{kind}"] += tokens

    def count_batch(self, closed_by: str) -> None:
        """Count a batch by what closed its window, one of `CLOSED_BY`."""
        with self._lock:
            self._counts[f"batches:{closed_by}"] += 1

    def count_preemptions(self, count: int) -> None:
        """Count preempted sequences."""
        with self._lock:
            self._counts["preemptions"] += count

    def observe(self, name: str, value: float, times: int = 1) -> None:
        """Count ``value`` ``times`` times in the histogram ``name``, one of `BUCKETS`."""
        with self._lock:
            self._counts[f"{name}:{bisect_left(BUCKETS[name], value)}"] += times
            self._counts[f"{name}:us"] += max(0, round(value * 1e6) * times)

    def observe_each(self, name: str, values: Sequence[float]) -> None:
        """Count each of ``values``, a sequence that is not empty.

        Sorts them, so that the cost grows with the number of buckets rather than with that of the values.
        """
        ordered, bounds = sorted(values), BUCKETS[name]
        with self._lock:
            counts = self._counts
            # A clock that was set back makes durations negative, but the sum of a histogram must never decrease.
            counts[f"{name}:us"] += max(0, round(sum(ordered) * 1e6))
            done, bucket = 0, bisect_left(bounds, ordered[0])
            while done < len(ordered):
                up_to = bisect_right(ordered, bounds[bucket], done) if bucket < len(bounds) else len(ordered)
                if up_to > done:
                    counts[f"{name}:{bucket}"] += up_to - done
                done, bucket = up_to, bucket + 1

    def take_out(self) -> Counter[str]:
        """Return what was counted since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def put_back(self, counts: Counter[str]) -> None:
        """Add counts that could not be stored, so that the next `take_out` returns them again."""
        with self._lock:
            self._counts.update(counts)


def store_observations(redis: Redis, model: str, counts: Mapping[str, int]) -> None:
    """Add ``counts`` to the model's hash in one transaction; if this raises, the caller may repeat it.

    Fields that Redis refuses, such as a sum beyond 64 bits, are dropped with a warning. If the connection is lost after
    Redis has executed the transaction, the repeated call counts everything twice. A sequence number per process would
    prevent that, but it costs more than a rare second of metrics is worth.
    """
    pipe = redis.pipeline()
    for field, count in counts.items():
        pipe.hincrby(queue_key(model, "observed"), field, count)
    # A failed command does not undo the others of its transaction, so raising its error would repeat them.
    for field, reply in zip(counts, pipe.execute(raise_on_error=False), strict=True):
        if isinstance(reply, ResponseError):
            log.warning(
                "model %s: the observations of %s are lost, because Redis refuses them: %s", model, field, reply
            )


def read_observations(redis: Redis, model: str) -> Observed:
    """Return what all workers of ``model`` have stored."""
    found = cast(dict[bytes, bytes], redis.hgetall(queue_key(model, "observed")))
    counts = Counter({field.decode(): int(count) for field, count in found.items()})
    histograms = {
        name: Histogram(
            bounds,
            tuple(counts[f"{name}:{bucket}"] for bucket in range(len(bounds) + 1)),
            counts[f"{name}:us"] / 1e6,
        )
        for name, bounds in BUCKETS.items()
    }
    return Observed(
        {kind: counts[f"tokens:{kind}"] for kind in TOKEN_KINDS},
        {why: counts[f"batches:{why}"] for why in CLOSED_BY},
        counts["preemptions"],
        histograms,
    )
