"""``python -m benchmarks queue``: the queue without a model, compared with plain Celery without a model."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from benchmarks.celery_peer.app import URL_VARIABLE
from benchmarks.celery_peer.worker import running_worker
from benchmarks.queue.noop_worker import MODEL
from benchmarks.stats import median, median_ratio, percentile
from windrow.bench.programs import check_interrupts, own_redis, run_part, wait_until
from windrow.bench.workload import bench_environ
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.ids import make_id
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from windrow.stack.supervisor import Interrupts

ITEMS_PER_S, OVERHEAD_BYTES, CLAIM_GROWTH = 40_000, 700, 1.5
#: Fewer requests for plain Celery, which processes about 1,000 per second.
CELERY_ITEMS = 4000
SHALLOW, CLAIMS, CLAIM_SIZES = 100, 300, (1, 64)
LEASE_S = 600.0
Say = Callable[[str], None]
Figure = dict[str, Any]


def run_queue(items: int, payload_bytes: int, batch_size: int, depth: int, rounds: int, say: Say) -> dict[str, Any]:
    """Measure everything; ``figures`` are rows of ``name, value, unit, target``."""
    ours: list[float] = []
    ours_durable: list[float] = []
    celery: list[float] = []
    with Interrupts() as interrupts:
        for number in range(rounds):
            for rates, durable in ((ours, False), (ours_durable, True)):
                with workplace(interrupts, durable=durable) as (folder, url):
                    rates.append(_windrow_rate(url, folder, items, payload_bytes, batch_size, interrupts))
            with workplace(interrupts, durable=False) as (folder, url):
                celery.append(_celery_rate(url, folder, payload_bytes, interrupts))
            rates_text = f"{ours[-1]:,.0f} items/s, {ours_durable[-1]:,.0f} with an append-only file"
            say(f"round {number + 1} of {rounds}: {rates_text}, plain Celery {celery[-1]:,.0f}")
        with workplace(interrupts) as (_, url):
            overhead_bytes = _overhead_bytes(url, depth, payload_bytes)
            say(f"{overhead_bytes:.0f} bytes per waiting request")
        with workplace(interrupts) as (_, url):
            claims = [row for size in CLAIM_SIZES for row in _claim_times(url, depth, size, payload_bytes)]
    figures = [
        _figure(f"items in rows of {batch_size}", median(ours), "items/s", f">= {ITEMS_PER_S:,}", 0),
        _figure("the same with an append-only file", median(ours_durable), "items/s", digits=0),
        _figure("no-op tasks through plain Celery", median(celery), "items/s", digits=0),
        _figure("ratio", median_ratio(ours, celery), "x", digits=1),
        _figure(f"memory beyond the payload, {depth:,} waiting", overhead_bytes, "bytes", f"<= {OVERHEAD_BYTES}", 0),
        *claims,
    ]
    return {"figures": figures, "items_per_s": ours, "durable_items_per_s": ours_durable, "celery_items_per_s": celery}


@contextmanager
def workplace(interrupts: Interrupts, *, durable: bool = True) -> Iterator[tuple[Path, str]]:
    """Yield a temporary folder and the URL of a new Redis."""
    with (
        tempfile.TemporaryDirectory(prefix="windrow-bench-") as name,
        own_redis(Path(name), interrupts, durable=durable) as url,
    ):
        yield Path(name), url


def payload_of(size_bytes: int) -> bytes:
    """Return a payload of ``size_bytes``, encoded as the API does."""
    empty = orjson.dumps({"model": MODEL, "input": "", "parameters": {}})
    return orjson.dumps({"model": MODEL, "input": "x" * max(0, size_bytes - len(empty)), "parameters": {}})


def fill(queue: RedisQueue, count: int, payload: bytes) -> None:
    """Submit ``count`` requests in calls of a thousand."""
    secret = os.urandom(32)
    for start in range(0, count, MAX_REQUESTS_PER_CALL):
        numbers = range(start, min(count, start + MAX_REQUESTS_PER_CALL))
        submissions = [Submission(make_id(secret, "bench"), payload, cost_tokens=50) for _ in numbers]
        queue.submit(submissions, flow="bench:normal", weight=4.0, max_depth=10 * count, max_bytes=1 << 40)


def _windrow_rate(
    url: str, folder: Path, items: int, payload_bytes: int, batch_size: int, interrupts: Interrupts
) -> float:
    with Redis.from_url(url) as redis:
        fill(RedisQueue(redis, MODEL), items, payload_of(payload_bytes))
    spec = {"url": url, "items": items, "batch_size": batch_size}
    result = run_part(
        "benchmarks.queue.noop_worker", spec, folder, bench_environ(folder), lambda: check_interrupts(interrupts)
    )
    return float(result["done"] / result["took_s"])


def _celery_rate(url: str, folder: Path, payload_bytes: int, interrupts: Interrupts) -> float:
    """Measure results per second from the first to the last."""
    environ = bench_environ(folder) | {URL_VARIABLE: url}
    spec = {"items": CELERY_ITEMS, "payload": "x" * payload_bytes}
    run_part("benchmarks.celery_peer.fill", spec, folder, environ, lambda: check_interrupts(interrupts))
    samples: list[tuple[float, int]] = []
    with Redis.from_url(url) as redis, running_worker(folder, environ) as child:

        def all_done() -> bool:
            left = int(redis.llen("celery")) + int(redis.hlen("unacked"))
            samples.append((time.monotonic(), left))
            return left == 0

        wait_until(all_done, child, interrupts)
    first_s, first = next((at_s, left) for at_s, left in samples if left < CELERY_ITEMS)
    return first / (samples[-1][0] - first_s)


def _overhead_bytes(url: str, depth: int, payload_bytes: int) -> float:
    payload = payload_of(payload_bytes)
    with Redis.from_url(url) as redis:
        queue = RedisQueue(redis, MODEL)
        # The first request loads the scripts and fills the buffers of the connection.
        fill(queue, 1, payload)
        before = _used_bytes(redis)
        fill(queue, depth, payload)
        return (_used_bytes(redis) - before) / depth - len(payload)


def _used_bytes(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def _claim_times(url: str, depth: int, size: int, payload_bytes: int) -> list[Figure]:
    """Time claims of ``size`` alternately at both depths; each claim is released to keep the depth."""
    payload = payload_of(payload_bytes)
    took_ms: dict[int, list[float]] = {SHALLOW: [], depth: []}
    with Redis.from_url(url) as redis:
        redis.flushall()
        queues = {waiting: RedisQueue(redis, f"noop-{waiting}") for waiting in took_ms}
        for waiting, queue in queues.items():
            fill(queue, waiting, payload)
        for _ in range(CLAIMS):
            for waiting, queue in queues.items():
                began_s = time.perf_counter()
                claim = queue.claim(size, lease_s=LEASE_S)
                took_ms[waiting].append((time.perf_counter() - began_s) * 1e3)
                queue.release({request.id: request.token for request in claim.requests})
    shallow, deep = took_ms.values()
    what = f"claim of {size}"
    return [
        _figure(f"{what}, {SHALLOW} waiting, p50", median(shallow), "ms", digits=3),
        _figure(f"{what}, {depth:,} waiting, p50", median(deep), "ms", digits=3),
        _figure(f"{what}, {depth:,} waiting, p99", percentile(deep, 0.99), "ms", digits=3),
        _figure(f"{what}, growth of p50", median(deep) / median(shallow), "x", f"<= {CLAIM_GROWTH}"),
    ]


def _figure(name: str, value: float, unit: str, target: str | None = None, digits: int = 2) -> Figure:
    return {"name": name, "value": value, "unit": unit, "target": target, "digits": digits}
