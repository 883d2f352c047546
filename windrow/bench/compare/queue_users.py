"""Closed-loop users of one queue: each sends its next request when its last one finishes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from redis import Redis

from windrow.bench.dataset import Item
from windrow.bench.latency_parts import measured
from windrow.bench.programs import BenchFailed, Check
from windrow.scheduler.queue import RedisQueue, Submission, finished_channel
from windrow.scheduler.queue.ids import make_id
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL, read_announcement

SECRET = b"of a benchmark"
NO_LIMIT = 1 << 50
#: How long to wait for results before checking whether to stop, in seconds.
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class UserTurn:
    """Results of the requests that all users sent in one round."""

    #: From the first submit to the last result.
    took_s: float
    #: From each submit to its result.
    response_s: list[float]
    #: Metrics of the requests that succeeded.
    metrics: list[Mapping[str, Any]]
    #: ``code: detail`` of the requests that failed.
    errors: list[str] = field(default_factory=list)


class QueueUsers:
    """A context manager that simulates ``users`` closed-loop users of ``model`` in one thread; ``check`` may raise.

    They learn of results from the message that a worker publishes per batch, as API processes do.
    """

    def __init__(self, redis: Redis, model: str, users: int, check: Check) -> None:
        self._redis, self._model, self._users, self._check = redis, model, users, check
        self._queue = RedisQueue(redis, model)
        self._messages = redis.pubsub(ignore_subscribe_messages=True)

    def __enter__(self) -> QueueUsers:
        self._messages.subscribe(finished_channel(self._model))
        return self

    def __exit__(self, *_: object) -> None:
        self._messages.close()

    def send(self, items: Sequence[Item]) -> UserTurn:
        """Send ``items`` in order and wait for all results; raises `BenchFailed` if one is missing."""
        payloads = iter(
            [orjson.dumps({"model": self._model, "input": item.input, "parameters": item.parameters}) for item in items]
        )
        asked_s: dict[str, float] = {}
        ended_s: dict[str, float] = {}
        began_s = time.perf_counter()
        self._submit(list(islice(payloads, self._users)), asked_s)
        while len(ended_s) < len(items):
            self._check()
            message: Any = self._messages.get_message(timeout=LOOK_S)
            if message is None:
                continue
            now_s = time.perf_counter()
            ids = [id for id in read_announcement(message["data"])[0] if id in asked_s]
            ended_s.update(dict.fromkeys(ids, now_s))
            self._submit(list(islice(payloads, len(ids))), asked_s)
        response_s = [ended_s[id] - at_s for id, at_s in asked_s.items()]
        return UserTurn(max(ended_s.values()) - began_s, response_s, *self._read(list(asked_s)))

    def _submit(self, payloads: Sequence[bytes], asked_s: dict[str, float]) -> None:
        for start in range(0, len(payloads), MAX_REQUESTS_PER_CALL):
            some = payloads[start : start + MAX_REQUESTS_PER_CALL]
            submissions = [Submission(make_id(SECRET, "bench"), payload) for payload in some]
            # Before the call, because a result may be published before it returns.
            asked_s.update(dict.fromkeys([one.id for one in submissions], time.perf_counter()))
            self._queue.submit(submissions, flow="bench:normal", weight=1.0, max_depth=NO_LIMIT, max_bytes=NO_LIMIT)

    def _read(self, ids: Sequence[str]) -> tuple[list[Mapping[str, Any]], list[str]]:
        metrics: list[Mapping[str, Any]] = []
        errors = []
        for id in ids:
            found = self._queue.lookup(id)
            if found is None:
                raise BenchFailed(f"the result of {id} was announced but is missing")
            if found.error is None:
                metrics.append(measured(found.metrics, found.output))
            else:
                errors.append(f"{found.error['code']}: {found.error['detail']}")
        return metrics, errors
