"""Fairness under overload: a quiet tenant and low priorities must keep their share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.engine import ITEM_VARIABLE, PASS_VARIABLE
from benchmarks.faults.report import Report
from benchmarks.stats import percentile
from windrow.bench.programs import Check
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL

#: Batch size, and seconds per forward pass, which do not depend on the batch size.
BATCH_SIZE, PASS_S = 8, 0.1
QUIET_PER_S, NOISY_TIMES, MOVED = 4.0, 50, 2.0
LIMIT_S = 120.0
EVERY_S = 0.05


def noisy_tenant(folder: Path, check: Check, seconds: float) -> Report:
    """Measure a quiet tenant alone, then beside one that sends 50 times as much and overloads the device."""
    report = Report(f"a tenant at {NOISY_TIMES} times the rate, for {seconds:g} s")
    p99_s = []
    with Deployment(folder, check, max_batch_size=BATCH_SIZE, environ={PASS_VARIABLE: str(PASS_S)}) as deployment:
        deployment.start_worker()
        for noisy in (False, True):
            with Checker(deployment.url) as checker:
                with _flood(checker, QUIET_PER_S * NOISY_TIMES if noisy else 0.0, "noisy", "normal"):
                    quiet = _send_evenly(deployment, checker, seconds)
                    deployment.wait_until(
                        "the quiet tenant's requests have finished", checker.all_finished(quiet), LIMIT_S
                    )
                known = checker.found(quiet).values()
                latencies_s = [found.completed_s - found.created_s for found in known if found and found.completed_s]
                p99_s.append(percentile(latencies_s, 0.99))
                name = "beside the noisy one" if noisy else "alone"
                report.figure(f"quiet tenant {name}, p50", percentile(latencies_s, 0.5) * 1e3, "ms", digits=0)
                report.figure(f"quiet tenant {name}, p99", p99_s[-1] * 1e3, "ms", digits=0)
                checker.settle(report, deployment.wait_until, LIMIT_S)
    moved = p99_s[1] / p99_s[0]
    report.figure("p99 moved by", moved, "x", f"< {MOVED:g}")
    report.must(moved < MOVED, f"the quiet tenant's p99 went from {p99_s[0] * 1e3:.0f} to {p99_s[1] * 1e3:.0f} ms")
    return report


def order_of_service(folder: Path, check: Check, noisy: int, quiet: int) -> Report:
    """Check without timing that every second claimed request is quiet although ``noisy`` ones were queued first."""
    report = Report("order of service beside a noisy tenant")
    with Deployment(folder, check) as deployment, Checker(deployment.url) as checker:
        for start in range(0, noisy, MAX_REQUESTS_PER_CALL):
            checker.submit(texts_of(min(MAX_REQUESTS_PER_CALL, noisy - start)), tenant="noisy")
        quiet_ids = checker.submit(texts_of(quiet), tenant="quiet")
        order: list[str] = []
        while claimed := checker.queue.claim(16, lease_s=60).requests:
            order += [request.id for request in claimed]
        positions = [order.index(id) + 1 for id in quiet_ids]
    report.figure("requests before the last quiet one", positions[-1] - 1, "requests", f"<= {2 * quiet}", 0)
    report.must(len(order) == noisy + quiet, f"{len(order)} of {noisy + quiet} requests were claimed")
    late = [position for number, position in enumerate(positions, 1) if position > 2 * number + 1]
    report.must(not late, f"the quiet requests were claimed at positions {positions}")
    return report


def flood_of_high(folder: Path, check: Check, seconds: float, low: int) -> Report:
    """Send more ``high`` requests than the device can process; ``low`` ones must finish meanwhile."""
    report = Report("priority low under a flood of high")
    environ = {PASS_VARIABLE: "0.02", ITEM_VARIABLE: "0"}
    with (
        Deployment(folder, check, max_batch_size=BATCH_SIZE, environ=environ) as deployment,
        Checker(deployment.url) as checker,
    ):
        deployment.start_worker()
        with _flood(checker, 1.5 * BATCH_SIZE / 0.02, "faults", "high"):
            deployment.pause(seconds / 4)
            ids = checker.submit(texts_of(low), priority="low")
            began_s = time.monotonic()
            deployment.pause(seconds)
            waiting = checker.queue.depth().waiting
            known = checker.found(ids)
        ended = sum(found is not None and found.is_ended for found in known.values())
        report.figure("high requests that still waited", waiting, "requests", digits=0)
        report.figure("low requests that ended in the flood", ended, "requests", str(low), 0)
        report.must(waiting > BATCH_SIZE, "the high requests did not overload the worker")
        report.must(
            ended == low, f"{ended} of {low} low requests ended within {time.monotonic() - began_s:.1f} s of flood"
        )
        checker.settle(report, deployment.wait_until, LIMIT_S)
    return report


def _send_evenly(deployment: Deployment, checker: Checker, seconds: float) -> list[str]:
    ids: list[str] = []
    began_s = time.monotonic()
    for number in range(int(seconds * QUIET_PER_S)):
        deployment.pause(max(0.0, began_s + number / QUIET_PER_S - time.monotonic()))
        ids += checker.submit(texts_of(1), tenant="quiet")
    return ids


@contextmanager
def _flood(checker: Checker, per_s: float, tenant: str, priority: str) -> Iterator[None]:
    """Submit ``per_s`` requests per second during the ``with`` block."""
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
