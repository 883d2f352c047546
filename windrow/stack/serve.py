"""`Stack`: Redis, the API, a worker and a housekeeping worker on one machine, for development and the demo."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import httpx
from redis.exceptions import RedisError

from windrow.api.bind import check_bind
from windrow.errors import InvalidSetting, ModelUnusable, RedisUnavailable
from windrow.scheduler.config.settings import Settings, load_settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.connection.redis_url import without_password
from windrow.scheduler.connection.server_check import check_server
from windrow.scheduler.models.sources import resolve_source
from windrow.stack.embedded_redis import find_redis_server, free_port, redis_answers, redis_command
from windrow.stack.load_watch import LoadWatch
from windrow.stack.supervisor import POLL_S, Interrupted, Interrupts, Program, ProgramEnded, Supervisor, tail

#: Time limits for Redis to load its data, and for workers to import torch and load models on a slow machine.
REDIS_START_S, READY_S = 60.0, 300.0
#: Time between TERM and KILL. A worker finishes its batch, and tries for 10 s to store results if Redis is down.
API_GRACE_S, WORKER_GRACE_S, REDIS_GRACE_S = 15.0, 40.0, 15.0
#: Programs that stop first, in this order; Redis stops last because all others need it.
STOP_PHASES = (["api"], ["worker", "housekeeping"])
#: Settings that the stack passes to its programs as PORT and CELERY_BROKER_URL instead.
REPLACED_SETTINGS = ("WINDROW_PORT", "WINDROW_REDIS_URL")
WORKER = [sys.executable, "-m", "celery", "-A", "windrow.worker", "worker", "--loglevel", "INFO"]

Say = Callable[[str], None]


def check_sources(settings: Settings) -> None:
    """Raise `InvalidSetting` for a model folder or package that does not exist, before anything starts.

    Only a worker can check a hub id.
    """
    for name, model in settings.models.items():
        if model.source.startswith(("package:", "builtin:", "/", ".", "~")):
            try:
                # A worker creates the missing weights of a builtin model.
                resolve_source(model.source, weights=not model.source.startswith("builtin:"))
            except ModelUnusable as error:
                raise InvalidSetting(f"models.{name}.source: {error.detail}") from None


class NotReady(Exception):
    """The programs run, but the models are not served."""


class Stack:
    """A context manager that starts all programs, waits until they are ready, and stops them at the end.

    ``folder`` stores data and logs, and is locked until the end. Settings are read from ``environ``, which the programs
    inherit. Raises `InvalidSetting`, `RedisUnavailable`, `NotReady`, `ProgramEnded` and `Interrupted`.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        interrupts: Interrupts,
        say: Say,
        *,
        is_verbose: bool = False,
        needs_all: bool = False,
    ) -> None:
        """With ``needs_all``, a model that cannot be loaded is a failure of the stack."""
        self._needs_all = needs_all
        self._folder = folder.resolve()
        #: Folder of the programs' logs.
        self.logs = self._folder / "logs"
        self.settings = load_settings(environ)
        check_bind(self.settings)
        check_sources(self.settings)
        self._say = say
        self._supervisor = Supervisor(
            interrupts, (lambda name, line: say(f"{name:>12} | {line}")) if is_verbose else None
        )
        host = self.settings.host
        self._port = checked_port(host, self.settings.port)
        self.url = f"http://{reachable_host(host)}:{self._port}"
        has_redis = "redis_url" in self.settings.model_fields_set
        self._redis_port = None if has_redis else free_port()
        self.redis_url = self.settings.redis_url if has_redis else f"redis://127.0.0.1:{self._redis_port}/0"
        self._environ = {name: value for name, value in environ.items() if name not in REPLACED_SETTINGS} | {
            "PORT": str(self._port),
            "CELERY_BROKER_URL": self.redis_url,
            "PYTHONUNBUFFERED": "1",
        }
        #: Models that could be loaded, after the start.
        self.served: list[str] = []
        self._exits = ExitStack()

    def check(self) -> None:
        """Raise if the stack must stop; call it a few times per second."""
        self._supervisor.check()

    def __enter__(self) -> Stack:
        with ExitStack() as exits:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidSetting(f"--folder {self._folder}: cannot be created: {error.strerror}") from None
            exits.callback(locked(self._folder).close)
            exits.callback(self._stop)
            self._start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, ProgramEnded):  # the complete message is printed after the stop, which may take a while
            self._say(str(error).partition("\n")[0])
        self._exits.close()

    def _start(self) -> None:
        started_s = time.monotonic()
        self._start_redis()
        with connect(self.redis_url) as redis:
            self._load_watch = LoadWatch(redis, list(self.settings.models))
            self._start_programs()
            if not self._supervisor.wait_until(self._is_ready, READY_S):
                raise NotReady(
                    f"not ready after {READY_S:g} s; /readyz answers: {self._readiness()}\n"
                    f"the end of {self.logs / 'worker.log'}:\n{tail(self.logs / 'worker.log')}"
                )
            failures = self._load_watch.failures()
            for failure in failures.values():
                self._say(f"not served: {failure}")
            self.served = [model for model in self.settings.models if model not in failures]
        self._say(f"ready after {time.monotonic() - started_s:.1f} s")

    def _start_programs(self) -> None:
        gunicorn = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "python:windrow.api.gunicorn_conf",
            "windrow.api:create_app()",
        ]
        schedule = str(self._folder / "celerybeat-schedule")
        self._run("api", gunicorn, API_GRACE_S)
        self._run("worker", [*WORKER, "-Q", "windrow", "-n", "worker@%h"], WORKER_GRACE_S)
        housekeeping = ["-B", "-Q", "windrow.housekeeping", "-n", "housekeeping@%h", "--schedule", schedule]
        self._run("housekeeping", [*WORKER, "--concurrency", "1", *housekeeping], WORKER_GRACE_S)
        self._say(f"starting the API, a worker and a housekeeping worker; logs in {self.logs}")

    def _start_redis(self) -> None:
        if self._redis_port is None:
            if not redis_answers(self.redis_url):
                raise RedisUnavailable(
                    f"CELERY_BROKER_URL: no Redis answers at {without_password(self.redis_url)}; "
                    "start it, or unset the variable to let windrow start a Redis server"
                )
            with connect(self.redis_url) as redis:
                check_server(redis)
            return
        data = self._folder / "redis"
        data.mkdir(exist_ok=True)
        self._run("redis", redis_command(find_redis_server(), self._redis_port, data), REDIS_GRACE_S)
        self._say(f"starting Redis on {self.redis_url}")
        if not self._supervisor.wait_until(lambda: redis_answers(self.redis_url), REDIS_START_S):
            raise NotReady(
                f"Redis does not answer after {REDIS_START_S:g} s; the end of its log:\n{tail(self.logs / 'redis.log')}"
            )

    def _run(self, name: str, command: list[str], grace_s: float) -> None:
        self._supervisor.start(Program(name, command, self._environ, self.logs / f"{name}.log", grace_s))

    def _stop(self) -> None:
        self._say("stopping: the API, the workers, Redis")
        for name in self._supervisor.stop(*STOP_PHASES):
            self._say(f"{name} did not stop and was killed")

    def _is_ready(self) -> bool:
        """Whether every model is served or could not be loaded. Raises `NotReady` if too few models are served."""
        try:
            if httpx.get(f"{self.url}/healthz", timeout=5, trust_env=False).status_code != 200:
                return False
            failed, is_settled = self._load_watch.failures(), self._load_watch.is_settled()
        except (httpx.HTTPError, RedisError):
            return False
        if failed and (self._needs_all or len(failed) == len(self.settings.models)):
            raise NotReady("\n".join([*failed.values(), f"the complete log: {self.logs / 'worker.log'}"]))
        return is_settled

    def _readiness(self) -> str:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).text[:500]
        except httpx.HTTPError as error:
            return f"no answer ({type(error).__name__})"


def serve(folder: Path, say: Say, *, on_ready: Callable[[Stack], None], is_verbose: bool = False) -> int:
    """Serve until a signal; return the exit code: 0 after a signal, 1 if a program exited or did not become ready."""
    with Interrupts() as interrupts:
        try:
            with Stack(folder, os.environ, interrupts, say, is_verbose=is_verbose) as stack:
                on_ready(stack)
                while True:
                    stack.check()
                    time.sleep(POLL_S)
        except Interrupted:
            return 0
        except (ProgramEnded, NotReady) as error:
            say(str(error))
            return 1


def checked_port(host: str, port: int) -> int:
    """Return ``port``, or a free port for 0. Raises `InvalidSetting` if the port is in use."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InvalidSetting(f"host: {host!r} is not an address of this machine: {error}") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise InvalidSetting(
                f"PORT: cannot listen on port {port} of {host} ({error.strerror}); "
                f"takes a free port, for example PORT={free_port()}"
            ) from None
        return int(probe.getsockname()[1])


def reachable_host(host: str) -> str:
    """Return the host for the URL of a server that listens on ``host``."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def locked(folder: Path) -> IO[str]:
    """Lock ``folder`` until the file is closed or this process exits. Raises `InvalidSetting` if it is locked."""
    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InvalidSetting(f"another windrow runs in {folder}; stop it, or use another --folder") from None
    return file
