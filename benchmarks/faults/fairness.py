"""Neighbours that send too much: a quiet tenant and low priorities must get their share all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.engine import ITEM_VARIABLE, PASS_VARIABLE
from benchmarks.faults.report import Report
from benchmarks.faults.site import Site
from windrow.bench.programs import Check
from windrow.bench.stats import percentile
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL

#: A pass takes the same whatever is in it, as on a device that is not full.
ROW, PASS_S = 8, 0.1
QUIET_PER_S, NOISY_TIMES, MOVED = 4.0, 50, 2.0
LIMIT_S = 120.0
EVERY_S = 0.05


def noisy_tenant(folder: Path, check: Check, seconds: float) -> Report:
    """A quiet tenant alone, then beside one that sends 50 times as much: more than the device can do."""
    report = Report(f"a tenant at {NOISY_TIMES} times the rate, for {seconds:g} s")
    p99_s = []
    with Site(folder, check, max_batch_size=ROW, environ={PASS_VARIABLE: str(PASS_S)}) as site:
        site.start_worker()
        for noisy in (False, True):
            with Checker(site.url) as checker:
                with _flood(checker, QUIET_PER_S * NOISY_TIMES if noisy else 0.0, "noisy", "normal"):
                    quiet = _send_evenly(site, checker, seconds)
                    site.wait_until("the quiet tenant's have ended", checker.all_ended(quiet), LIMIT_S)
                known = checker.found(quiet).values()
                latencies_s = [one.completed_s - one.created_s for one in known if one and one.completed_s]
                p99_s.append(percentile(latencies_s, 0.99))
                name = "beside the noisy one" if noisy else "alone"
                report.figure(f"quiet tenant {name}, p50", percentile(latencies_s, 0.5) * 1e3, "ms", digits=0)
                report.figure(f"quiet tenant {name}, p99", p99_s[-1] * 1e3, "ms", digits=0)
                checker.settle(report, site.wait_until, LIMIT_S)
    moved = p99_s[1] / p99_s[0]
    report.figure("p99 moved by", moved, "x", f"< {MOVED:g}")
    report.must(moved < MOVED, f"the quiet tenant's p99 went from {p99_s[0] * 1e3:.0f} to {p99_s[1] * 1e3:.0f} ms")
    return report


def order_of_service(folder: Path, check: Check, noisy: int, quiet: int) -> Report:
    """The same without a clock: every other turn is a quiet request's, however many ``noisy`` ones were there first."""
    report = Report("order of service beside a noisy tenant")
    with Site(folder, check) as site, Checker(site.url) as checker:
        for start in range(0, noisy, MAX_REQUESTS_PER_CALL):
            checker.submit(texts_of(min(MAX_REQUESTS_PER_CALL, noisy - start)), tenant="noisy")
        few = checker.submit(texts_of(quiet), tenant="quiet")
        order: list[str] = []
        while claimed := checker.queue.claim(16, lease_s=60).requests:
            order += [one.id for one in claimed]
        places = [order.index(id) + 1 for id in few]
    report.figure("requests before the last quiet one", places[-1] - 1, "requests", f"<= {2 * quiet}", 0)
    report.must(len(order) == noisy + quiet, f"{len(order)} of {noisy + quiet} were served")
    late = [place for number, place in enumerate(places, 1) if place > 2 * number + 1]
    report.must(not late, f"quiet requests at places {places}")
    return report


def flood_of_high(folder: Path, check: Check, seconds: float, low: int) -> Report:
    """More high requests than the device can do, for ``seconds``: low ones that came during the flood end in it."""
    report = Report("priority low under a flood of high")
    environ = {PASS_VARIABLE: "0.02", ITEM_VARIABLE: "0"}
    with Site(folder, check, max_batch_size=ROW, environ=environ) as site, Checker(site.url) as checker:
        site.start_worker()
        with _flood(checker, 1.5 * ROW / 0.02, "faults", "high"):
            site.pause(seconds / 4)
            ids = checker.submit(texts_of(low), priority="low")
            began_s = time.monotonic()
            site.pause(seconds)
            waiting = checker.queue.depth().waiting
            known = checker.found(ids)
        ended = sum(one is not None and one.is_ended for one in known.values())
        report.figure("high requests that still waited", waiting, "requests", digits=0)
        report.figure("low requests that ended in the flood", ended, "requests", str(low), 0)
        report.must(waiting > ROW, "there was no flood")
        report.must(
            ended == low, f"{ended} of {low} low requests ended within {time.monotonic() - began_s:.1f} s of flood"
        )
        checker.settle(report, site.wait_until, LIMIT_S)
    return report


def _send_evenly(site: Site, checker: Checker, seconds: float) -> list[str]:
    ids: list[str] = []
    began_s = time.monotonic()
    for number in range(int(seconds * QUIET_PER_S)):
        site.pause(max(0.0, began_s + number / QUIET_PER_S - time.monotonic()))
        ids += checker.submit(texts_of(1), tenant="quiet")
    return ids


@contextmanager
def _flood(checker: Checker, per_s: float, tenant: str, priority: str) -> Iterator[None]:
    """Submit ``per_s`` requests a second for the time of the block."""
    stops = threading.Event()

    def send() -> None:
        began_s, sent = time.monotonic(), 0
        while not stops.wait(EVERY_S):
            due = int((time.monotonic() - began_s) * per_s) - sent
            if due:
                checker.submit(texts_of(due), tenant=tenant, priority=priority)
                sent += due

    thread = threading.Thread(target=send, daemon=True)
    if per_s:
        thread.start()
    try:
        yield
    finally:
        stops.set()
        if per_s:
            thread.join()
