"""``windrow bench http``: Windrow over HTTP between its bound, the engine alone, and plain Celery.

One contender is alive at a time: each is started, warmed up, measured and stopped in every round, in an order that
rotates, so that none shares the cores with another and a machine that slows down slows all of them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.celery_peer.app import URL_VARIABLE
from benchmarks.http.timeline import Batch, DeviceUse, device_use
from benchmarks.stats import Rates, median, median_ratio, percentile, rates_within
from windrow.bench.programs import Check, check_interrupts, own_redis, require, run_part, running
from windrow.bench.workload import bench_environ, counted_texts
from windrow.stack.serve import Stack
from windrow.stack.supervisor import Interrupts

BOUND, WINDROW, CELERY = "engine alone", "Windrow over HTTP", "plain Celery"
TARGET_TO_BOUND, TARGET_TO_CELERY = 0.9, 2.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """What every contender gets."""

    clients: int
    seconds: float
    warm_s: float
    texts: list[str]
    tokens: list[int]

    def spec(self, **more: Any) -> dict[str, Any]:
        """As `run_part` hands it over."""
        return {**asdict(self), "root_pid": os.getpid(), **more}


@dataclass(frozen=True, slots=True)
class Round:
    """One contender in one round."""

    rates: Rates
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0
    #: CPU milliseconds per request, by program.
    cpu_ms: dict[str, float] = field(default_factory=dict)
    device: DeviceUse | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Round:
        """From what a part wrote."""
        requests = max(1, result.get("requests", 0))
        return cls(
            rates_within([(at_s, tokens) for at_s, tokens in result["ended"]], result["begin_s"], result["end_s"]),
            result.get("latencies_s", []),
            result.get("failed", 0),
            {label: 1e3 * used_s / requests for label, used_s in result.get("cpu_s", {}).items()},
            device_use([Batch(*batch) for batch in result.get("batches", [])]),
        )


class HttpBench:
    """One run of the benchmark; ``say`` gets its progress."""

    def __init__(self, load: Load, interrupts: Interrupts, say: Say) -> None:
        self._load, self._interrupts, self._say = load, interrupts, say
        self._contenders = {BOUND: self._run_bound, WINDROW: self._run_windrow, CELERY: self._run_celery}

    def run(self, rounds: int) -> dict[str, list[Round]]:
        """All rounds of every contender."""
        done: dict[str, list[Round]] = {name: [] for name in self._contenders}
        names = list(self._contenders)
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                with tempfile.TemporaryDirectory(prefix="windrow-bench-") as folder:
                    one = self._contenders[name](Path(folder))
                done[name].append(one)
                self._say(f"round {number + 1} of {rounds}: {name}: {one.rates.texts_per_s:.1f} texts/s")
        return done

    def _run_bound(self, folder: Path) -> Round:
        return Round.of(
            run_part("benchmarks.http.offline", self._load.spec(), folder, bench_environ(folder), self._check)
        )

    def _run_windrow(self, folder: Path) -> Round:
        environ = bench_environ(folder)
        with Stack(folder, environ, self._interrupts, lambda text: None) as stack:
            spec = self._load.spec(port=urlsplit(stack.url).port)
            return Round.of(run_part("benchmarks.http.load", spec, folder, environ, stack.check))

    def _run_celery(self, folder: Path) -> Round:
        worker = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_peer.app", "worker"]
        worker += ["--pool", "prefork", "--concurrency", "1", "--loglevel", "WARNING"]
        with own_redis(folder, self._interrupts) as url:
            environ = bench_environ(folder) | {URL_VARIABLE: url}
            with running("celery", worker, folder, environ) as child:

                def check() -> None:
                    self._check()
                    require(child)

                return Round.of(run_part("benchmarks.celery_peer.load", self._load.spec(), folder, environ, check))

    @property
    def _check(self) -> Check:
        return lambda: check_interrupts(self._interrupts)


def run_http(clients: int, rounds: int, seconds: float, texts: int, warm_s: float, say: Say) -> dict[str, Any]:
    """Measure and sum up; see `summarise`."""
    load = Load(clients, seconds, warm_s, *counted_texts(texts))
    with Interrupts() as interrupts:
        return summarise(HttpBench(load, interrupts, say).run(rounds))


def summarise(done: Mapping[str, list[Round]]) -> dict[str, Any]:
    """The report: medians over rounds, ratios taken round by round from tokens, and what a request cost each program.

    Tokens, since not every window holds the same texts: a text counts for what it weighs.
    """
    tokens = {name: [one.rates.tokens_per_s for one in rounds] for name, rounds in done.items()}
    return {
        "contenders": {name: _contender(rounds) for name, rounds in done.items()},
        "ratio_to_bound": median_ratio(tokens[WINDROW], tokens[BOUND]),
        "ratio_to_celery": median_ratio(tokens[WINDROW], tokens[CELERY]),
        "targets": {"ratio_to_bound": TARGET_TO_BOUND, "ratio_to_celery": TARGET_TO_CELERY},
        "device": [asdict(one.device) for one in done[WINDROW] if one.device is not None],
    }


def _contender(rounds: list[Round]) -> dict[str, Any]:
    latencies_ms = [latency_s * 1e3 for one in rounds for latency_s in one.latencies_s]
    labels = sorted({label for one in rounds for label in one.cpu_ms})
    return {
        "texts_per_s": median([one.rates.texts_per_s for one in rounds]),
        "tokens_per_s": median([one.rates.tokens_per_s for one in rounds]),
        "rounds_texts_per_s": [one.rates.texts_per_s for one in rounds],
        "p50_ms": percentile(latencies_ms, 0.5) if latencies_ms else None,
        "p99_ms": percentile(latencies_ms, 0.99) if latencies_ms else None,
        "failed": sum(one.failed for one in rounds),
        "cpu_ms_per_request": {label: median([one.cpu_ms.get(label, 0.0) for one in rounds]) for label in labels},
    }
