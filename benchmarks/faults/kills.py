"""SIGKILL for a worker's pool process, its parent process or both, at every stop point."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from benchmarks.faults.checker import MODEL, Checker, texts_of
from benchmarks.faults.deployment import Deployment, WorkerProgram
from benchmarks.faults.engine import PASS_VARIABLE
from benchmarks.faults.report import Report
from benchmarks.faults.stop_points import STOP_POINTS, Reached
from windrow.bench.programs import Check
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL

#: The processes that are killed.
VICTIMS = ("pool", "parent", "group")
#: Limit of each wait, generous enough for a busy machine.
LIMIT_S = 60.0
#: Time allowed beyond the lease: expired leases are reaped every second, and a worker may have to start.
SLACK_S = 2.0
PASS_S, BATCH_SIZE = "0.01", 32


def kill_workers(folder: Path, check: Check, victim: str, requests: int, *, workers: int = 1) -> Report:
    """Kill ``victim`` once at each stop point while an equal share of ``requests`` is processed."""
    report = Report(f"kill -9 of the {victim}")
    reclaimed_s = []
    with (
        Deployment(folder, check, max_batch_size=BATCH_SIZE, environ={PASS_VARIABLE: PASS_S}) as deployment,
        Checker(deployment.url) as checker,
    ):
        programs = [deployment.start_worker() for _ in range(workers)]
        for program in programs:
            deployment.keep_up(program)
        share = requests // len(STOP_POINTS)
        for point in STOP_POINTS:
            # Stop halfway, with requests finished and requests waiting.
            deployment.stop_points.arm(point, skip=max(0, share // (2 * BATCH_SIZE) - 1))
            for start in range(0, share, MAX_REQUESTS_PER_CALL):
                checker.submit(texts_of(min(MAX_REQUESTS_PER_CALL, share - start)))
            deployment.wait_until(f"a worker is blocked at {point}", deployment.stop_points.reached, LIMIT_S)
            reached = deployment.stop_points.reached()
            assert reached is not None
            held = owners(checker)
            began_s = time.monotonic()
            _kill(victim, reached, programs)
            # The pool process does not continue: Celery lets the kernel kill it when its parent dies.
            _wait_until_requeued(deployment, checker, held)
            reclaimed_s.append(time.monotonic() - began_s)
            name = f"reclaimed, killed {point.replace('_', ' ')}"
            report.figure(name, reclaimed_s[-1], "s", _target(deployment, workers))
            deployment.stop_points.release()
            deployment.wait_until("all requests have finished", checker.all_finished(), LIMIT_S)
        checker.settle(report, deployment.wait_until, LIMIT_S)
        report.figure("redelivered", checker.queue.depth().counts.get("redelivered", 0), "requests", digits=0)
    report.figure("reclaimed, the longest", max(reclaimed_s), "s", _target(deployment, workers))
    return report


def owners(checker: Checker) -> dict[bytes, bytes]:
    """Return the attempt token of every request that is claimed now, by id."""
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
    """Count the requests of ``held`` that are still claimed with the same token."""
    now = owners(checker)
    return sum(now.get(id) == token for id, token in held.items())


def _wait_until_requeued(deployment: Deployment, checker: Checker, held: dict[bytes, bytes]) -> None:
    deployment.wait_until(
        "the killed worker's requests were claimed by others", lambda: not still_held(checker, held), LIMIT_S
    )


def _kill(victim: str, reached: Reached, programs: list[WorkerProgram]) -> None:
    (program,) = [program for program in programs if program.child.pid == reached.parent_pid]
    kill: dict[str, Callable[[], Any]] = {
        "pool": lambda: os.kill(reached.pid, signal.SIGKILL),
        "parent": program.kill_parent,
        "group": program.kill_group,
    }
    kill[victim]()


def _target(deployment: Deployment, workers: int) -> str | None:
    # Without another worker, one has to start before the leases are reaped.
    return f"<= {deployment.lease_s + SLACK_S:g}" if workers > 1 else None
