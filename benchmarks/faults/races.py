"""A hundred finishers at once for one request: one answer is stored, by a holder of the last token."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from benchmarks.faults.checker import MODEL, Checker, Expected
from benchmarks.faults.report import Report
from benchmarks.faults.site import Site
from windrow.bench.programs import Check
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue, Request, result_key

#: Of all finishers, those that hold the token of the last claim: one answer sent again and again by a worker that
#: cannot tell whether Redis got it.
HOLDERS = 10
LEASE_S = 60.0


def race_finishers(folder: Path, check: Check, finishers: int, rounds: int) -> Report:
    """In each round one request is claimed again and again, and then everybody who ever held it finishes it."""
    report = Report(f"{finishers} finishers race for one id")
    winners, strangers = [], []
    with Site(folder, check) as site, Checker(site.url) as checker:
        for _ in range(rounds):
            check()
            (id,) = checker.submit(["a text"])
            claims = _claim_again_and_again(checker.queue, id, finishers - HOLDERS)
            stored = _race(site.url, claims + [claims[-1]] * (HOLDERS - 1))
            winners.append(sum(stored))
            strangers.append(sum(stored[: finishers - HOLDERS]))
            checker.expected[id] = Expected("succeeded", {"by": stored.index(True)} if any(stored) else None)
            report.must(checker.redis.get(result_key(id)) is not None, f"{id} has no result")
        checker.settle(report, site.wait_until, 10.0)
    report.figure("finishes that were stored, a race", sum(winners) / rounds, "", "1")
    report.figure("of those by an old token", sum(strangers), "", "0", 0)
    report.must(set(winners) == {1}, f"stored in each race: {winners}")
    report.must(sum(strangers) == 0, f"{sum(strangers)} finishes with an old token were stored")
    return report


def _claim_again_and_again(queue: RedisQueue, id: str, times: int) -> list[Request]:
    """Return all claims of ``id``, each given back but the last, which is one more."""
    claims = []
    for left in range(times, -1, -1):
        (claimed,) = queue.claim(1, lease_s=LEASE_S).requests
        assert claimed.id == id
        claims.append(claimed)
        if left:
            queue.release({id: claimed.token})
    return claims


def _race(url: str, claims: list[Request]) -> list[bool]:
    """Finish one request under every claim at the same moment; who was stored, in the order of ``claims``."""
    stored: list[Any] = [None] * len(claims)
    line = threading.Barrier(len(claims))

    def finish(number: int) -> None:
        redis = connect(url)
        queue = RedisQueue(redis, MODEL)
        redis.ping()
        line.wait()
        (stored[number],) = queue.finish([claims[number].set_outcome(Done({"by": number}))])
        redis.close()

    threads = [threading.Thread(target=finish, args=(number,)) for number in range(len(claims))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return stored
