"""Shortcuts to submit, claim and finish requests of a `RedisQueue`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from windrow.scheduler.core.admission import UNLIMITED, Quota
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name
from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.scheduler.queue import RedisQueue, Request, Submission

MODEL = "m"
LEASE_S = 60.0
#: A lease that has expired when the reply arrives.
NO_LEASE_S = 0.0
PLENTY = 1 << 30


def request(
    id: str, *, cost: int = 1, deadline_s: float | None = None, input: Any = "hay", webhook: str | None = None
) -> Submission:
    """Return an ordinary submission."""
    payload = orjson.dumps({"model": MODEL, "input": input, "parameters": {}})
    return Submission(id, payload, cost, deadline_s, webhook)


def submit(
    queue: RedisQueue,
    *ids: str,
    tenant: str = "acme",
    priority: str = "normal",
    cost: int = 1,
    deadline_s: float | None = None,
    max_depth: int = PLENTY,
    max_bytes: int = PLENTY,
    quota: Quota = UNLIMITED,
    idempotency: tuple[str, str] | None = None,
) -> list[str]:
    """Submit requests with these ids in one call."""
    return queue.submit(
        [request(id, cost=cost, deadline_s=deadline_s) for id in ids],
        flow=flow_name(tenant, priority),
        weight=PRIORITY_WEIGHTS[priority],
        max_depth=max_depth,
        max_bytes=max_bytes,
        quota=quota,
        idempotency=idempotency,
    ).ids


def claim(queue: RedisQueue, count: int = 1000, *, lease_s: float = LEASE_S, **how: Any) -> list[Request]:
    """Claim requests, by default for a minute; ``how`` are arguments of `RedisQueue.claim`."""
    return queue.claim(count, lease_s=lease_s, **how).requests


def ids_of(requests: Iterable[Request]) -> list[str]:
    """Return the ids in order."""
    return [one.id for one in requests]


def held(requests: Iterable[Request]) -> dict[str, str]:
    """Return id -> token, as for `RedisQueue.renew` and `RedisQueue.release`."""
    return {one.id: one.token for one in requests}


def finish(queue: RedisQueue, requests: Sequence[Request], outcome: Outcome | None = None) -> list[bool]:
    """Finish all requests with the same outcome."""
    ended = Done({"label": "good"}) if outcome is None else outcome
    return queue.finish([one.set_outcome(ended) for one in requests])


def reap_until(queue: RedisQueue, done: Callable[[], bool]) -> int:
    """Reap until ``done`` returns True; return the number of reaped requests."""
    moved = queue.reap()
    while not done():
        moved += queue.reap()
    return moved


def status_of(queue: RedisQueue, id: str) -> str | None:
    """Return the status of a request; None if it is unknown."""
    found = queue.lookup(id)
    return None if found is None else found.status
