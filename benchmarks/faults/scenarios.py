"""All scenarios of ``python -m benchmarks faults``; tests/faults runs them with smaller numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.clock_skew import shift_clocks
from benchmarks.faults.fairness import flood_of_high, noisy_tenant, order_of_service
from benchmarks.faults.foreign_messages import put_pickles, share_with_newer
from benchmarks.faults.kills import VICTIMS, kill_workers
from benchmarks.faults.overload import overload
from benchmarks.faults.partitions import leave_half_open, pause_connection
from benchmarks.faults.poison import KINDS, poison_batch
from benchmarks.faults.races import race_finishers
from benchmarks.faults.redis_kills import cut_power, kill_redis
from benchmarks.faults.report import Report
from benchmarks.faults.rolling import restart_all
from windrow.bench.programs import BenchFailed, Check, check_interrupts
from windrow.stack.supervisor import Interrupts

Run = Callable[[Path, Check], Report]
SHIFT_S = 600.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of each scenario."""

    #: Total over the scenarios that kill workers.
    requests: int = 10_000
    redis_kills: int = 50
    silent_s: float = 60.0
    overload_s: float = 60.0
    restarts: int = 5


def scenarios(sizes: Sizes) -> dict[str, Run]:
    """Return all scenarios by name, in the order in which they run."""
    found: dict[str, Run] = {}
    for victim in VICTIMS:
        share = sizes.requests // len(VICTIMS)
        found[f"kill-{victim}"] = partial(kill_workers, victim=victim, requests=share, workers=2)
    found["kill-redis"] = partial(kill_redis, kills=sizes.redis_kills)
    found["kill-redis-everysec"] = partial(kill_redis, kills=sizes.redis_kills, appendfsync="everysec")
    found["cut-power-everysec"] = partial(cut_power, cuts=max(1, sizes.redis_kills // 10))
    found["silent-line"] = partial(pause_connection, silent_s=sizes.silent_s, requests=60)
    found["half-open"] = partial(leave_half_open, silent_s=5.0, requests=60)
    found["race"] = partial(race_finishers, finishers=100, rounds=20)
    for kind in KINDS:
        found[f"one-that-{kind}s" if kind != "memory" else "one-that-exhausts-memory"] = partial(
            poison_batch, kind=kind
        )
    found["overload"] = partial(overload, seconds=sizes.overload_s)
    found["noisy-tenant"] = partial(noisy_tenant, seconds=sizes.overload_s)
    found["order-of-service"] = partial(order_of_service, noisy=5000, quiet=50)
    found["priorities"] = partial(flood_of_high, seconds=sizes.overload_s / 4, low=50)
    for name, api_s in (("clocks-api-ahead", SHIFT_S), ("clocks-api-behind", -SHIFT_S)):
        found[name] = partial(shift_clocks, api_shift_s=api_s, worker_shift_s=-api_s, requests=100)
    found["rolling-restarts"] = partial(restart_all, rounds=sizes.restarts, clients=2)
    found["pickles"] = put_pickles
    found["newer-records"] = partial(share_with_newer, foreign=3000, requests=200)
    return found


def run_faults(sizes: Sizes, only: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Run the scenarios named in ``only``, or all, and return their reports under ``scenarios``.

    A scenario that fails to run counts as broken. Raises `BenchFailed` for an unknown name.
    """
    known: Mapping[str, Run] = scenarios(sizes)
    if unknown := [name for name in only if name not in known]:
        raise BenchFailed(f"unknown scenarios: {', '.join(unknown)}; choose from {', '.join(known)}")
    reports: dict[str, Any] = {}
    with Interrupts() as interrupts:
        for name in only or known:
            with tempfile.TemporaryDirectory(prefix="windrow-faults-") as folder:
                try:
                    report = known[name](Path(folder), lambda: check_interrupts(interrupts))
                except (BenchFailed, TimeoutError, OSError) as error:
                    report = Report(name, broken=[f"{type(error).__name__}: {error}"])
            say(f"{name}: {'; '.join(report.broken) or 'good'}")
            reports[name] = asdict(report)
    return {"sizes": asdict(sizes), "scenarios": reports}
