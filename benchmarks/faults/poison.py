"""Poison requests: one request of a batch kills the process, raises or exhausts memory."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.engine import EXHAUSTS, KILLS, RAISES
from benchmarks.faults.report import Report
from windrow.bench.programs import Check
from windrow.scheduler.queue import DeadLetters

LIMIT_S = 90.0
#: What the poison request does -> the error codes that it may fail with.
KINDS: dict[str, tuple[str, ...]] = {
    KILLS: ("attempts_exhausted",),
    RAISES: ("model_failed",),
    EXHAUSTS: ("out_of_memory",),
}


def poison_batch(folder: Path, check: Check, kind: str, batch_size: int = 32) -> Report:
    """Submit one batch of ``batch_size`` requests with one poison request; all others must succeed."""
    report = Report(f"one in {batch_size} that is '{kind}'")
    with Deployment(folder, check, max_batch_size=batch_size) as deployment, Checker(deployment.url) as checker:
        texts = texts_of(batch_size)
        texts[batch_size // 3] = f"{kind} me"
        # All requests wait before the worker starts, so that they form one batch.
        ids = checker.submit(texts)
        checker.expect([ids[batch_size // 3]], "failed", *KINDS[kind])
        worker = deployment.start_worker()
        deployment.keep_up(worker)
        began_s = time.monotonic()
        checker.settle(report, deployment.wait_until, LIMIT_S)
        report.figure("until all had ended", time.monotonic() - began_s, "s")
        known = checker.found()
        good = sum(found is not None and found.status == "succeeded" for found in known.values())
        report.figure("right answers", good, "requests", str(batch_size - 1), 0)
        report.must(good == batch_size - 1, f"only {good} of {batch_size - 1} good requests succeeded")
        letters = [letter.id for letter in DeadLetters(checker.redis, checker.queue.model).newest(10)]
        report.figure("dead letters", len(letters), "requests", digits=0)
        expected = [ids[batch_size // 3]] if kind == KILLS else []
        report.must(letters == expected, f"the dead letters are {letters}, not {expected}")
        report.figure("redelivered", checker.queue.depth().counts.get("redelivered", 0), "requests", digits=0)
    return report
