"""Network partitions: a worker loses Redis while it holds leases, and others take over its requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.deployment import Deployment, WorkerProgram
from benchmarks.faults.kills import owners, still_held
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.report import Report
from windrow.bench.programs import Check

LIMIT_S = 60.0


def pause_connection(folder: Path, check: Check, silent_s: float, requests: int) -> Report:
    """Delay all traffic between the worker and Redis for ``silent_s``, then deliver it."""
    report = Report(f"a line that is silent for {silent_s:g} s")
    _cut_off(folder, check, silent_s, requests, report)
    return report


def leave_half_open(folder: Path, check: Check, silent_s: float, requests: int) -> Report:
    """Close Redis's side of the worker's connections silently, and accept new ones after ``silent_s``.

    If new connections worked at once, the worker would renew its leases over them and nothing would happen.
    """
    report = Report("connections that are half open")

    def reset(proxy: Proxy) -> None:
        report.figure("connections left half open", proxy.leave_half_open(), digits=0)

    _cut_off(folder, check, silent_s, requests, report, reset)
    return report


def _cut_off(
    folder: Path,
    check: Check,
    silent_s: float,
    requests: int,
    report: Report,
    after_pause: Callable[[Proxy], None] = lambda proxy: None,
) -> None:
    """Pause the worker's connections for ``silent_s`` just before it finishes a batch."""
    with (
        Deployment(folder, check) as deployment,
        Checker(deployment.url) as checker,
        Proxy(urlsplit(deployment.url).port or 0) as proxy,
    ):
        environ = {"CELERY_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0"}
        cut_off = deployment.start_worker(environ=environ)
        deployment.stop_points.arm("before_finish")
        checker.submit(texts_of(requests))
        deployment.wait_until("the worker is about to finish", deployment.stop_points.reached, LIMIT_S)
        held = owners(checker)
        proxy.pause()
        after_pause(proxy)
        began_s = time.monotonic()
        # The worker now tries to store its results.
        deployment.stop_points.release()
        other = deployment.start_worker()
        deployment.wait_until("other workers have claimed its requests", lambda: not still_held(checker, held), LIMIT_S)
        report.figure("held when cut off", len(held), "requests", digits=0)
        report.figure("given to others after", time.monotonic() - began_s, "s")
        deployment.pause(max(0.0, silent_s - (time.monotonic() - began_s)))
        proxy.resume()
        checker.settle(report, deployment.wait_until, LIMIT_S)
        deployment.wait_until("the late finish was refused", lambda: _late(checker) > 0, LIMIT_S)
        report.figure("late finishes refused", _late(checker), "requests", digits=0)
        other.kill_group()
        _serves_again(deployment, checker, cut_off, report)


def _serves_again(deployment: Deployment, checker: Checker, cut_off: WorkerProgram, report: Report) -> None:
    """Check that the disconnected worker, now the only one, answers requests again."""
    began_s = time.monotonic()
    ids = checker.submit(texts_of(10))
    try:
        deployment.wait_until("the worker serves again", checker.all_finished(ids), LIMIT_S)
    except TimeoutError:
        report.broken.append(f"the disconnected worker does not serve again: {cut_off.log[-2000:]}")
    report.figure("serves again after", time.monotonic() - began_s, "s")


def _late(checker: Checker) -> int:
    return checker.queue.depth().counts.get("late", 0)
