"""``kill -9`` of Redis under load: is everything that it said yes to still there?"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from redis.exceptions import RedisError

from benchmarks.faults.checker import Checker, texts_of
from benchmarks.faults.report import Report
from benchmarks.faults.site import Site
from windrow.bench.programs import Check

LIMIT_S = 90.0
SUBMITTERS, PER_CALL = 3, 4
#: Of load before each kill, in seconds; no two alike, so that kills do not fall into step with anything.
LOADS_S = (0.31, 0.47, 0.73, 0.59, 0.41)
#: By `everysec` a sync is begun once a second; what was written since may be lost.
UNSYNCED_S = 1.0
RETRY_S, PAUSE_S = 0.05, 0.01


class Submitters:
    """Threads that submit without end, and remember when each call was acknowledged."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._stops = threading.Event()
        #: Id -> `time.monotonic` of the yes.
        self.acknowledged_s: dict[str, float] = {}
        #: Calls that got no answer: taken in or not, nobody was promised anything.
        self.unanswered = 0
        self._threads = [threading.Thread(target=self._submit, daemon=True) for _ in range(SUBMITTERS)]

    def __enter__(self) -> Submitters:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each end its call."""
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
    """Kill Redis ``kills`` times while requests are submitted and answered, starting it again each time.

    With ``everysec`` what is lost is a figure and no broken promise.
    """
    report = Report(f"kill -9 of Redis, appendfsync {appendfsync}")
    killed_s: list[float] = []
    with Site(folder, check, appendfsync=appendfsync) as site, Checker(site.url) as checker:
        worker = site.start_worker()
        site.keep_up(worker)
        with Submitters(checker) as submitters:
            for number in range(kills):
                site.pause(LOADS_S[number % len(LOADS_S)])
                site.kill_redis()
                killed_s.append(time.monotonic())
                site.start_redis()
            site.pause(LOADS_S[0])
        lost = {id for id, one in checker.found().items() if one is None}
        report.figure("kills", kills, digits=0)
        report.figure("submitted without an answer", submitters.unanswered, "requests", digits=0)
        if appendfsync != "always":
            _measure_window(report, lost, submitters.acknowledged_s, killed_s)
            for id in lost:
                del checker.expected[id]
            # What Redis forgot was done again, and announced again.
            checker.announced.clear()
        checker.settle(report, site.wait_until, LIMIT_S)
    return report


def _measure_window(report: Report, lost: set[str], acknowledged_s: dict[str, float], killed_s: list[float]) -> None:
    """How long before the next kill the oldest lost request had been acknowledged."""
    window_s = 0.0
    for id in lost:
        kill_s = min((at_s for at_s in killed_s if at_s >= acknowledged_s[id]), default=killed_s[-1])
        window_s = max(window_s, kill_s - acknowledged_s[id])
    report.figure("acknowledged and lost", len(lost), "requests", digits=0)
    report.figure("the oldest of them, before the kill", window_s * 1e3, "ms", digits=0)


def cut_power(folder: Path, check: Check, cuts: int, *, appendfsync: str = "everysec") -> Report:
    """What a machine that loses its power may lose: the append-only file is cut back to what it was a second before.

    A killed process loses nothing that the kernel has; a machine loses what was not synced. Nobody works meanwhile, so
    that every loss is one of requests.
    """
    report = Report(f"power cut, appendfsync {appendfsync}")
    lost_of_cut, window_ms = [], []
    with Site(folder, check, appendfsync=appendfsync) as site:
        for number in range(cuts):
            with Checker(site.url) as checker, Submitters(checker) as submitters:
                site.pause(UNSYNCED_S + LOADS_S[number % len(LOADS_S)])
                sizes = _sizes(folder)
                site.pause(UNSYNCED_S)
                cut_s = time.monotonic()
                site.kill_redis()
                submitters.stop()
                for path, size_bytes in sizes.items():
                    os.truncate(path, size_bytes)
                site.start_redis()
                lost = [id for id, one in checker.found().items() if one is None]
                kept = len(checker.expected) - len(lost)
                oldest_s = min((submitters.acknowledged_s[id] for id in lost), default=cut_s)
                lost_of_cut.append(len(lost))
                window_ms.append((cut_s - oldest_s) * 1e3)
                report.must(kept > 0, "nothing at all was kept")
    report.figure("power cuts", cuts, digits=0)
    report.figure("acknowledged and lost, the most in one", max(lost_of_cut), "requests", digits=0)
    report.figure("the oldest of them, before the cut", max(window_ms), "ms", digits=0)
    return report


def _sizes(folder: Path) -> dict[Path, int]:
    """Bytes of the append-only files (Redis 7 has a folder of them)."""
    return {path: path.stat().st_size for path in (folder / "redis").rglob("*.aof")}
