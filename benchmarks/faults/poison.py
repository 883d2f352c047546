"""One request that kills the process, raises or exhausts memory, among others that are well."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.engine import EXHAUSTS, KILLS, RAISES
from benchmarks.faults.report import Report
from benchmarks.faults.site import Site
from windrow.bench.programs import Check
from windrow.scheduler.queue import DeadLetters

LIMIT_S = 90.0
#: What the bad one does -> the codes it may fail with.
KINDS: dict[str, tuple[str, ...]] = {
    KILLS: ("attempts_exhausted",),
    RAISES: ("model_failed",),
    EXHAUSTS: ("out_of_memory",),
}


def poison_row(folder: Path, check: Check, kind: str, row: int = 32) -> Report:
    """One row with one bad request; all others must get their answers."""
    report = Report(f"one in {row} that is '{kind}'")
    with Site(folder, check, max_batch_size=row) as site, Checker(site.url) as checker:
        texts = texts_of(row)
        texts[row // 3] = f"{kind} me"
        # All of them wait before the worker comes, so that they stand in one row.
        ids = checker.submit(texts)
        checker.expect([ids[row // 3]], "failed", *KINDS[kind])
        worker = site.start_worker()
        site.keep_up(worker)
        began_s = time.monotonic()
        checker.settle(report, site.wait_until, LIMIT_S)
        report.figure("until all had ended", time.monotonic() - began_s, "s")
        known = checker.found()
        good = sum(one is not None and one.status == "succeeded" for one in known.values())
        report.figure("right answers", good, "requests", str(row - 1), 0)
        report.must(good == row - 1, f"{good} of {row - 1} good requests were answered")
        letters = [letter.id for letter in DeadLetters(checker.redis, checker.queue.model).newest(10)]
        report.figure("dead letters", len(letters), "requests", digits=0)
        expected = [ids[row // 3]] if kind == KILLS else []
        report.must(letters == expected, f"dead letters {letters}, and {expected} are right")
        report.figure("redelivered", checker.queue.depth().counts.get("redelivered", 0), "requests", digits=0)
    return report
