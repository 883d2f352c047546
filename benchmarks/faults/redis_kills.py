"""SIGKILL for Redis under load: every acknowledged request must survive."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from redis.exceptions import RedisError

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.report import Report
from windrow.bench.programs import Check

LIMIT_S = 90.0
SUBMITTERS, PER_CALL = 3, 4
#: Seconds of load before each kill; all different, so that kills do not coincide with periodic work.
LOADS_S = (0.31, 0.47, 0.73, 0.59, 0.41)
#: With ``appendfsync everysec``, Redis starts a sync once per second; later writes may be lost.
UNSYNCED_S = 1.0
RETRY_S, PAUSE_S = 0.05, 0.01


class Submitters:
    """Threads that submit continuously and record when each call was acknowledged."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._stops = threading.Event()
        #: `time.monotonic` of the acknowledgement, by id.
        self.acknowledged_s: dict[str, float] = {}
        #: Requests of calls without a response; Redis may or may not have stored them, but acknowledged none.
        self.unanswered = 0
        self._threads = [threading.Thread(target=self._submit, daemon=True) for _ in range(SUBMITTERS)]

    def __enter__(self) -> Submitters:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop after the calls in progress."""
        self._stops.set()
        for thread in self._threads:
            thread.join()

    def _submit(self) -> None:
        while not self._stops.is_set():
            try:
                ids = self._checker.submit(texts_of(PER_CALL))
            except RedisError:
                self.unanswered += PER_CALL
                self._stops.wait(RETRY_S)
            else:
                self.acknowledged_s |= dict.fromkeys(ids, time.monotonic())
                self._stops.wait(PAUSE_S)


def kill_redis(folder: Path, check: Check, kills: int, *, appendfsync: str = "always") -> Report:
    """Kill and restart Redis ``kills`` times while requests are submitted and answered.

    With ``everysec``, lost requests are reported as a figure and break no promise.
    """
    report = Report(f"kill -9 of Redis, appendfsync {appendfsync}")
    killed_s: list[float] = []
    with Deployment(folder, check, appendfsync=appendfsync) as deployment, Checker(deployment.url) as checker:
        worker = deployment.start_worker()
        deployment.keep_up(worker)
        with Submitters(checker) as submitters:
            for number in range(kills):
                deployment.pause(LOADS_S[number % len(LOADS_S)])
                deployment.kill_redis()
                killed_s.append(time.monotonic())
                deployment.start_redis()
            deployment.pause(LOADS_S[0])
        lost = {id for id, found in checker.found().items() if found is None}
        report.figure("kills", kills, digits=0)
        report.figure("submitted without an answer", submitters.unanswered, "requests", digits=0)
        if appendfsync != "always":
            _measure_window(report, lost, submitters.acknowledged_s, killed_s)
            for id in lost:
                del checker.expected[id]
            # Requests whose results Redis lost ran again and were announced twice.
            checker.announced.clear()
        checker.settle(report, deployment.wait_until, LIMIT_S)
    return report


def _measure_window(report: Report, lost: set[str], acknowledged_s: dict[str, float], killed_s: list[float]) -> None:
    """Report how long before the kill the oldest lost request was acknowledged."""
    window_s = 0.0
    for id in lost:
        kill_s = min((at_s for at_s in killed_s if at_s >= acknowledged_s[id]), default=killed_s[-1])
        window_s = max(window_s, kill_s - acknowledged_s[id])
    report.figure("acknowledged and lost", len(lost), "requests", digits=0)
    report.figure("the oldest of them, before the kill", window_s * 1e3, "ms", digits=0)


def cut_power(folder: Path, check: Check, cuts: int, *, appendfsync: str = "everysec") -> Report:
    """Simulate power cuts by truncating the append-only file to its size of one second earlier.

    A killed process loses nothing that the kernel has buffered; a power cut loses all unsynced writes. No worker runs,
    so that only submitted requests can be lost.
    """
    report = Report(f"power cut, appendfsync {appendfsync}")
    lost_counts, windows_ms = [], []
    with Deployment(folder, check, appendfsync=appendfsync) as deployment:
        for number in range(cuts):
            with Checker(deployment.url) as checker, Submitters(checker) as submitters:
                deployment.pause(UNSYNCED_S + LOADS_S[number % len(LOADS_S)])
                sizes = _sizes(folder)
                deployment.pause(UNSYNCED_S)
                cut_s = time.monotonic()
                deployment.kill_redis()
                submitters.stop()
                for path, size_bytes in sizes.items():
                    os.truncate(path, size_bytes)
                deployment.start_redis()
                lost = [id for id, found in checker.found().items() if found is None]
                kept = len(checker.expected) - len(lost)
                oldest_s = min((submitters.acknowledged_s[id] for id in lost), default=cut_s)
                lost_counts.append(len(lost))
                windows_ms.append((cut_s - oldest_s) * 1e3)
                report.must(kept > 0, "Redis kept no request")
    report.figure("power cuts", cuts, digits=0)
    report.figure("acknowledged and lost, the most in one", max(lost_counts), "requests", digits=0)
    report.figure("the oldest of them, before the cut", max(windows_ms), "ms", digits=0)
    return report


def _sizes(folder: Path) -> dict[Path, int]:
    """Return the size in bytes of each append-only file; Redis 7 has several."""
    return {path: path.stat().st_size for path in (folder / "redis").rglob("*.aof")}
