"""``python -m benchmarks http``: Windrow over HTTP, compared with the engine alone and with plain Celery.

One contender runs at a time: each is started, warmed up, measured and stopped in every round, in rotating order. So
contenders do not share the cores, and a machine that slows down affects all of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.celery_peer.app import URL_VARIABLE
from benchmarks.celery_peer.worker import running_worker
from benchmarks.http.timeline import Batch, DeviceUse, device_use
from benchmarks.stats import Rates, median, median_ratio, percentile, rates_within
from windrow.bench.programs import Check, check_interrupts, own_redis, require, run_part
from windrow.bench.workload import bench_environ, counted_texts
from windrow.stack.serve import Stack
from windrow.stack.supervisor import Interrupts

BOUND, WINDROW, CELERY = "engine alone", "Windrow over HTTP", "plain Celery"
TARGET_TO_BOUND, TARGET_TO_CELERY = 0.9, 2.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """The load of every contender."""

    clients: int
    seconds: float
    warm_s: float
    texts: list[str]
    tokens: list[int]

    def spec(self, **more: Any) -> dict[str, Any]:
        """Return the load as the ``spec`` of `run_part`."""
        return {**asdict(self), "root_pid": os.getpid(), **more}


@dataclass(frozen=True, slots=True)
class Round:
    """The measurement of one contender in one round."""

    rates: Rates
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0
    #: CPU milliseconds per request, by program.
    cpu_ms: dict[str, float] = field(default_factory=dict)
    device: DeviceUse | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Round:
        """Convert the result of `run_part`."""
        requests = max(1, result.get("requests", 0))
        return cls(
            rates_within([(at_s, tokens) for at_s, tokens in result["ended"]], result["begin_s"], result["end_s"]),
            result.get("latencies_s", []),
            result.get("failed", 0),
            {label: 1e3 * used_s / requests for label, used_s in result.get("cpu_s", {}).items()},
            device_use([Batch(*batch) for batch in result.get("batches", [])]),
        )


class HttpBench:
    """One run of the benchmark; ``say`` reports progress."""

    def __init__(self, load: Load, interrupts: Interrupts, say: Say) -> None:
        self._load, self._interrupts, self._say = load, interrupts, say
        self._contenders = {BOUND: self._run_bound, WINDROW: self._run_windrow, CELERY: self._run_celery}

    def run(self, rounds: int) -> dict[str, list[Round]]:
        """Measure all rounds of every contender."""
        done: dict[str, list[Round]] = {name: [] for name in self._contenders}
        names = list(self._contenders)
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                with tempfile.TemporaryDirectory(prefix="windrow-bench-") as folder:
                    result = self._contenders[name](Path(folder))
                done[name].append(result)
                self._say(f"round {number + 1} of {rounds}: {name}: {result.rates.texts_per_s:.1f} texts/s")
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
        with own_redis(folder, self._interrupts) as url:
            environ = bench_environ(folder) | {URL_VARIABLE: url}
            with running_worker(folder, environ) as child:

                def check() -> None:
                    self._check()
                    require(child)

                return Round.of(run_part("benchmarks.celery_peer.load", self._load.spec(), folder, environ, check))

    @property
    def _check(self) -> Check:
        return lambda: check_interrupts(self._interrupts)


def run_http(clients: int, rounds: int, seconds: float, texts: int, warm_s: float, say: Say) -> dict[str, Any]:
    """Measure, and return the report of `summarise`."""
    load = Load(clients, seconds, warm_s, *counted_texts(texts))
    with Interrupts() as interrupts:
        return summarise(HttpBench(load, interrupts, say).run(rounds))


def summarise(done: Mapping[str, list[Round]]) -> dict[str, Any]:
    """Return medians over rounds, ratios of tokens per second within rounds, and the CPU time per request and program.

    Ratios compare tokens because the intervals of a round contain different texts.
    """
    tokens = {name: [result.rates.tokens_per_s for result in rounds] for name, rounds in done.items()}
    return {
        "contenders": {name: _contender(rounds) for name, rounds in done.items()},
        "ratio_to_bound": median_ratio(tokens[WINDROW], tokens[BOUND]),
        "ratio_to_celery": median_ratio(tokens[WINDROW], tokens[CELERY]),
        "targets": {"ratio_to_bound": TARGET_TO_BOUND, "ratio_to_celery": TARGET_TO_CELERY},
        "device": [asdict(result.device) for result in done[WINDROW] if result.device is not None],
    }


def _contender(rounds: list[Round]) -> dict[str, Any]:
    latencies_ms = [latency_s * 1e3 for result in rounds for latency_s in result.latencies_s]
    labels = sorted({label for result in rounds for label in result.cpu_ms})
    return {
        "texts_per_s": median([result.rates.texts_per_s for result in rounds]),
        "tokens_per_s": median([result.rates.tokens_per_s for result in rounds]),
        "rounds_texts_per_s": [result.rates.texts_per_s for result in rounds],
        "p50_ms": percentile(latencies_ms, 0.5) if latencies_ms else None,
        "p99_ms": percentile(latencies_ms, 0.99) if latencies_ms else None,
        "failed": sum(result.failed for result in rounds),
        "cpu_ms_per_request": {label: median([result.cpu_ms.get(label, 0.0) for result in rounds]) for label in labels},
    }
