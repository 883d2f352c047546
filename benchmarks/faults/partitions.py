"""A worker that is cut off from Redis while it holds requests: others answer them, its own answers come too late."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.kills import owners, still_held
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.report import Report
from benchmarks.faults.site import Site, WorkerProgram
from windrow.bench.programs import Check

LIMIT_S = 60.0


def fall_silent(folder: Path, check: Check, silent_s: float, requests: int) -> Report:
    """The worker's line to Redis is silent for ``silent_s``; then everything that it sent meanwhile arrives."""
    report = Report(f"a line that is silent for {silent_s:g} s")

    def cut(site: Site, proxy: Proxy) -> None:
        proxy.fall_silent()

    def mend(site: Site, proxy: Proxy, cut_s: float) -> None:
        site.pause(max(0.0, silent_s - (time.monotonic() - cut_s)))
        proxy.speak_again()

    _cut_off(folder, check, requests, report, cut, mend)
    return report


def leave_half_open(folder: Path, check: Check, silent_s: float, requests: int) -> Report:
    """Redis's side of the worker's connections is gone and the worker is not told; new ones work after ``silent_s``.

    Where new ones work at once, the worker keeps its leases over them, and nobody notices.
    """
    report = Report("connections that are half open")

    def cut(site: Site, proxy: Proxy) -> None:
        proxy.fall_silent()
        report.figure("connections left half open", proxy.leave_half_open(), digits=0)

    def mend(site: Site, proxy: Proxy, cut_s: float) -> None:
        site.pause(max(0.0, silent_s - (time.monotonic() - cut_s)))
        proxy.speak_again()

    _cut_off(folder, check, requests, report, cut, mend)
    return report


def _cut_off(
    folder: Path,
    check: Check,
    requests: int,
    report: Report,
    cut: Callable[[Site, Proxy], None],
    mend: Callable[[Site, Proxy, float], None],
) -> None:
    with Site(folder, check) as site, Checker(site.url) as checker, Proxy(urlsplit(site.url).port or 0) as proxy:
        environ = {"CELERY_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0"}
        cut_off = site.start_worker(environ=environ)
        site.barriers.arm("before_finish")
        checker.submit(texts_of(requests))
        site.wait_until("the worker is about to finish", site.barriers.reached, LIMIT_S)
        held = owners(checker)
        cut(site, proxy)
        began_s = time.monotonic()
        # From here on it tries to store answers that it has.
        site.barriers.release()
        other = site.start_worker()
        site.wait_until("others hold what it held", lambda: not still_held(checker, held), LIMIT_S)
        report.figure("held when cut off", len(held), "requests", digits=0)
        report.figure("given to others after", time.monotonic() - began_s, "s")
        mend(site, proxy, began_s)
        checker.settle(report, site.wait_until, LIMIT_S)
        site.wait_until("the late finish was refused", lambda: _late(checker) > 0, LIMIT_S)
        report.figure("late finishes refused", _late(checker), "requests", digits=0)
        other.kill_group()
        _serves_again(site, checker, cut_off, report)


def _serves_again(site: Site, checker: Checker, cut_off: WorkerProgram, report: Report) -> None:
    """The worker that was cut off is alone now, and must answer."""
    began_s = time.monotonic()
    ids = checker.submit(texts_of(10))
    try:
        site.wait_until("the worker serves again", checker.all_ended(ids), LIMIT_S)
    except TimeoutError:
        report.broken.append(f"the worker that was cut off does not serve again: {cut_off.log[-2000:]}")
    report.figure("serves again after", time.monotonic() - began_s, "s")


def _late(checker: Checker) -> int:
    return checker.queue.depth().counts.get("late", 0)
