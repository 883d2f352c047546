"""Many threads finish one request at once; exactly one result, with the last attempt token, must be stored."""

from __future__ import annotations

import threading
from copy import copy
from pathlib import Path
from typing import Any

from benchmarks.faults.checker import MODEL, Checker, Expected
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.report import Report
from windrow.bench.programs import Check
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue, Request, result_key

#: How many threads use the attempt token of the last claim, like a worker that repeats a finish because it cannot tell
#: whether Redis received it.
LAST_TOKEN_THREADS = 10
LEASE_S = 60.0


def race_finishers(folder: Path, check: Check, finishers: int, rounds: int) -> Report:
    """In each round, claim and release one request many times, then finish it with all attempt tokens at once."""
    report = Report(f"{finishers} finishers race for one id")
    stored_counts, stale_counts = [], []
    with Deployment(folder, check) as deployment, Checker(deployment.url) as checker:
        for _ in range(rounds):
            check()
            (id,) = checker.submit(["a text"])
            claims = _claim_repeatedly(checker.queue, id, finishers - LAST_TOKEN_THREADS)
            stored = _race(deployment.url, claims + [claims[-1]] * (LAST_TOKEN_THREADS - 1))
            stored_counts.append(sum(stored))
            stale_counts.append(sum(stored[: finishers - LAST_TOKEN_THREADS]))
            checker.expected[id] = Expected("succeeded", {"by": stored.index(True)} if any(stored) else None)
            report.must(checker.redis.get(result_key(id)) is not None, f"{id} has no result")
        checker.settle(report, deployment.wait_until, 10.0)
    report.figure("finishes that were stored, a race", sum(stored_counts) / rounds, "", "1")
    report.figure("of those by an old token", sum(stale_counts), "", "0", 0)
    report.must(set(stored_counts) == {1}, f"results stored in each round, 1 expected: {stored_counts}")
    report.must(sum(stale_counts) == 0, f"{sum(stale_counts)} finishes with an old token were stored")
    return report


def _claim_repeatedly(queue: RedisQueue, id: str, times: int) -> list[Request]:
    """Claim ``id`` ``times + 1`` times, release all claims but the last, and return them."""
    claims = []
    for left in range(times, -1, -1):
        (claimed,) = queue.claim(1, lease_s=LEASE_S).requests
        assert claimed.id == id
        claims.append(claimed)
        if left:
            queue.release({id: claimed.token})
    return claims


def _race(url: str, claims: list[Request]) -> list[bool]:
    """Finish one request with every claim at once; return which finishes were stored, in the order of ``claims``."""
    stored: list[Any] = [None] * len(claims)
    start = threading.Barrier(len(claims))

    def finish(number: int) -> None:
        redis = connect(url)
        queue = RedisQueue(redis, MODEL)
        redis.ping()
        start.wait()
        # A copy, since several threads finish the last claim.
        claimed = copy(claims[number])
        (stored[number],) = queue.finish([claimed.set_outcome(Done({"by": number}))])
        redis.close()

    threads = [threading.Thread(target=finish, args=(number,)) for number in range(len(claims))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return stored
