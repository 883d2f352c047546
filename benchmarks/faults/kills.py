"""``kill -9`` of a worker's pool process, of its Celery parent, of both, at every barrier."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from benchmarks.faults.barriers import BARRIERS, Reached
from benchmarks.faults.checker import MODEL, Checker, texts_of
from benchmarks.faults.engine import PASS_VARIABLE
from benchmarks.faults.report import Report
from benchmarks.faults.site import Site, WorkerProgram
from windrow.bench.programs import Check
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL

#: Who is killed.
VICTIMS = ("pool", "parent", "group")
#: Longer than any of it takes on a busy machine.
LIMIT_S = 60.0
#: On top of the lease: a reap every second, and a worker that starts.
SLACK_S = 2.0
PASS_S, ROW = "0.01", 32


def kill_workers(folder: Path, check: Check, victim: str, requests: int, *, workers: int = 1) -> Report:
    """Kill ``victim`` once at each barrier, with its share of ``requests`` on the way."""
    report = Report(f"kill -9 of the {victim}")
    reclaimed_s = []
    with Site(folder, check, max_batch_size=ROW, environ={PASS_VARIABLE: PASS_S}) as site, Checker(site.url) as checker:
        programs = [site.start_worker() for _ in range(workers)]
        for program in programs:
            site.keep_up(program)
        share = requests // len(BARRIERS)
        for barrier in BARRIERS:
            # Half way through, with something before and something behind.
            site.barriers.arm(barrier, skip=max(0, share // (2 * ROW) - 1))
            for start in range(0, share, MAX_REQUESTS_PER_CALL):
                checker.submit(texts_of(min(MAX_REQUESTS_PER_CALL, share - start)))
            site.wait_until(f"a worker stands at {barrier}", site.barriers.reached, LIMIT_S)
            reached = site.barriers.reached()
            assert reached is not None
            held = owners(checker)
            began_s = time.monotonic()
            _kill(victim, reached, programs)
            # Nobody goes on from the barrier: Celery has the kernel kill a pool process whose parent is gone.
            _wait_until_given_away(site, checker, held)
            reclaimed_s.append(time.monotonic() - began_s)
            name = f"reclaimed, killed {barrier.replace('_', ' ')}"
            report.figure(name, reclaimed_s[-1], "s", _target(site, workers))
            site.barriers.release()
            site.wait_until("everything has ended", checker.all_ended(), LIMIT_S)
        checker.settle(report, site.wait_until, LIMIT_S)
        report.figure("redelivered", checker.queue.depth().counts.get("redelivered", 0), "requests", digits=0)
    report.figure("reclaimed, the longest", max(reclaimed_s), "s", _target(site, workers))
    return report


def owners(checker: Checker) -> dict[bytes, bytes]:
    """Everything that is held now: id -> attempt token."""
    claims, digits = (
        cast(dict[bytes, bytes], checker.redis.hgetall(f"windrow:{MODEL}:{name}")) for name in ("claims", "held")
    )
    return {
        id: token
        for token, claim in claims.items()
        for id, digit in zip(claim.split()[1:], digits.get(token, b"").decode(), strict=False)
        if digit == "1"
    }


def still_held(checker: Checker, held: dict[bytes, bytes]) -> int:
    """How many of ``held`` are held under the same token."""
    now = owners(checker)
    return sum(now.get(id) == token for id, token in held.items())


def _wait_until_given_away(site: Site, checker: Checker, held: dict[bytes, bytes]) -> None:
    site.wait_until("what it held was given to others", lambda: not still_held(checker, held), LIMIT_S)


def _kill(victim: str, reached: Reached, programs: list[WorkerProgram]) -> None:
    (program,) = [program for program in programs if program.child.pid == reached.parent_pid]
    kill: dict[str, Callable[[], Any]] = {
        "pool": lambda: os.kill(reached.pid, signal.SIGKILL),
        "parent": program.kill_parent,
        "group": program.kill_group,
    }
    kill[victim]()


def _target(site: Site, workers: int) -> str | None:
    # Where no other worker is left to reap, one has to start first.
    return f"<= {site.lease_s + SLACK_S:g}" if workers > 1 else None
