"""``windrow bench compare``: one workload through every strategy and batch size, compared with one request per batch.

One worker process serves all contenders, each from its own queue, with the batch loop of production. The contenders
alternate round by round, so that a machine that slows down affects all of them. The load is many users in this process.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from windrow.bench.compare.queue_users import QueueUsers, UserTurn
from windrow.bench.dataset import Item
from windrow.bench.programs import Check, check_interrupts, own_redis, require, running, wait_until
from windrow.bench.workload import bench_environ
from windrow.scheduler.queue import RedisQueue
from windrow.stack.supervisor import Interrupts

SERIAL = "serial"
#: Maximum age of a worker's heartbeat, in seconds.
HEARTBEAT_AGE_S = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run the workload. Its name is also the name of its queue."""

    name: str
    strategy: str
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The contenders, and the engine and load they are compared on."""

    contenders: Sequence[Contender]
    #: Engine that `windrow.bench.compare.worker` loads.
    engine: Mapping[str, Any]
    #: None if the window is learned.
    max_wait_ms: float | None
    users: int
    rounds: int


def make_contenders(strategies: Sequence[str], batch_sizes: Sequence[int]) -> list[Contender]:
    """Return one request per batch, then every strategy with every size. A single strategy is called ``batch``."""
    return [
        Contender(SERIAL, "none", 1),
        *(
            Contender(f"{'batch' if len(strategies) == 1 else strategy}-{size}", strategy, size)
            for strategy in strategies
            for size in batch_sizes
        ),
    ]


def run_compare(plan: Plan, items: Sequence[Item], say: Say) -> tuple[dict[str, list[UserTurn]], dict[str, Any]]:
    """Return the rounds of each contender, and its engine's heartbeat; raises `BenchFailed`."""
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as name, Interrupts() as interrupts:
        folder = Path(name)
        with (
            own_redis(folder, interrupts, durable=False) as url,
            Redis.from_url(url) as redis,
            worker(plan, url, folder, interrupts) as check,
        ):
            engines = {one.name: _engine(redis, one.name) for one in plan.contenders}
            return measure(plan, items, redis, check, say), engines


@contextmanager
def worker(plan: Plan, url: str, folder: Path, interrupts: Interrupts) -> Iterator[Check]:
    """Run the worker process until the block ends; yields a check that raises if it ended or the user interrupts."""
    given = folder / "compare.json"
    given.write_bytes(orjson.dumps(asdict(plan) | {"url": url}))
    command = [sys.executable, "-m", "windrow.bench.compare.worker", str(given)]
    with running("worker", command, folder, bench_environ(folder)) as child, Redis.from_url(url) as redis:
        wait_until(lambda: all(_engine(redis, one.name) for one in plan.contenders), child, interrupts)

        def check() -> None:
            check_interrupts(interrupts)
            require(child)

        yield check


def measure(plan: Plan, items: Sequence[Item], redis: Redis, check: Check, say: Say) -> dict[str, list[UserTurn]]:
    """Run all rounds of all contenders. Before its first round, each contender gets one warm-up request per user."""
    turns: dict[str, list[UserTurn]] = {one.name: [] for one in plan.contenders}
    names = list(turns)
    for number in range(plan.rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            with QueueUsers(redis, name, plan.users, check) as users:
                if not turns[name]:
                    users.send(items[: plan.users])
                turns[name].append(users.send(items))
            say(f"round {number + 1} of {plan.rounds}: {name}: {len(items) / turns[name][-1].took_s:.1f} requests/s")
    return turns


def _engine(redis: Redis, name: str) -> dict[str, Any]:
    """Return the worker's last heartbeat; empty before the first one."""
    heartbeats = list(RedisQueue(redis, name).workers(within_s=HEARTBEAT_AGE_S).values())
    return asdict(heartbeats[0]) if heartbeats else {}
