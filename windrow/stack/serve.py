"""The whole stack on one machine, for development and the demo: Redis, one API, one worker, one housekeeping worker."""

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

from windrow.api.http.bind import check_bind
from windrow.errors import InvalidSetting, ModelUnusable, RedisUnavailable
from windrow.scheduler.config.settings import Settings, load_settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.connection.redis_url import without_password
from windrow.scheduler.connection.server_check import check_server
from windrow.scheduler.models.sources import resolve_source
from windrow.stack.embedded_redis import find_redis_server, free_port, redis_answers, redis_command
from windrow.stack.load_watch import LoadWatch
from windrow.stack.supervisor import POLL_S, Interrupted, Interrupts, Program, ProgramEnded, Supervisor, tail

#: Redis reading its append-only file; workers importing torch and loading models on a slow machine.
REDIS_START_S, READY_S = 60.0, 300.0
#: Between TERM and KILL. A worker ends the row it holds, and tries for 10 s to store it where Redis is away.
API_GRACE_S, WORKER_GRACE_S, REDIS_GRACE_S = 15.0, 40.0, 15.0
#: Who stops first; Redis, which all need to the end, is what is left.
STOP_PHASES = (["api"], ["worker", "housekeeping"])
#: Settings that the stack decides; their values reach the children as PORT and CELERY_BROKER_URL.
DECIDED_HERE = ("WINDROW_PORT", "WINDROW_REDIS_URL")
WORKER = [sys.executable, "-m", "celery", "-A", "windrow.worker", "worker", "--loglevel", "INFO"]

Say = Callable[[str], None]


def check_sources(settings: Settings) -> None:
    """Look for the models on this machine before anything starts; raise `InvalidSetting` naming one that is not there.

    A hub id can only be tried by the worker.
    """
    for name, model in settings.models.items():
        if model.source.startswith(("package:", "builtin:", "/", ".", "~")):
            try:
                # A worker makes what is missing of a builtin one.
                resolve_source(model.source, weights=not model.source.startswith("builtin:"))
            except ModelUnusable as error:
                raise InvalidSetting(f"models.{name}.source: {error.detail}") from None


class NotReady(Exception):
    """The programs run, but requests are not served."""


class Stack:
    """Enter it to have everything started and ready, leave it to have everything stopped.

    ``folder`` holds data and logs, and is locked meanwhile. ``environ`` is what the settings are read from and what
    the programs inherit. Raises `InvalidSetting`, `RedisUnavailable`, `NotReady`, `ProgramEnded` and `Interrupted`.
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
        """``needs_all`` is for those who cannot do without a model that does not load."""
        self._needs_all = needs_all
        self._folder = folder.resolve()
        self._settings = load_settings(environ)
        check_bind(self._settings)
        check_sources(self._settings)
        self._say = say
        self._supervisor = Supervisor(
            interrupts, (lambda name, line: say(f"{name:>12} | {line}")) if is_verbose else None
        )
        host = self._settings.host
        self._port = checked_port(host, self._settings.port)
        self.url = f"http://{reachable_host(host)}:{self._port}"
        has_redis = "redis_url" in self._settings.model_fields_set
        self._redis_port = None if has_redis else free_port()
        self.redis_url = self._settings.redis_url if has_redis else f"redis://127.0.0.1:{self._redis_port}/0"
        self._environ = {name: value for name, value in environ.items() if name not in DECIDED_HERE} | {
            "PORT": str(self._port),
            "CELERY_BROKER_URL": self.redis_url,
            "PYTHONUNBUFFERED": "1",
        }
        #: Models that could be loaded; known once it is entered.
        self.served: list[str] = []
        self._exits = ExitStack()

    @property
    def settings(self) -> Settings:
        """What the stack was started with."""
        return self._settings

    @property
    def logs(self) -> Path:
        """Folder of the programs' logs."""
        return self._folder / "logs"

    def check(self) -> None:
        """Raise where it is time to stop; to be called a few times a second."""
        self._supervisor.check()

    def __enter__(self) -> Stack:
        with ExitStack() as exits:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidSetting(f"--folder {self._folder}: cannot be made: {error.strerror}") from None
            exits.callback(locked(self._folder).close)
            exits.callback(self._stop)
            self._start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, ProgramEnded):  # the whole message comes last; stopping may take a while
            self._say(str(error).partition("\n")[0])
        self._exits.close()

    def _start(self) -> None:
        started_s = time.monotonic()
        self._start_redis()
        with connect(self.redis_url) as redis:
            self._watched = LoadWatch(redis, list(self._settings.models))
            self._start_programs()
            if not self._supervisor.wait_until(self._is_ready, READY_S):
                raise NotReady(
                    f"not ready after {READY_S:g} s; /readyz says: {self._readiness()}\n"
                    f"the end of {self.logs / 'worker.log'}:\n{tail(self.logs / 'worker.log')}"
                )
            troubles = self._watched.troubles()
            for trouble in troubles.values():
                self._say(f"not served: {trouble}")
            self.served = [model for model in self._settings.models if model not in troubles]
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
                    "start it, or unset the variable to use one of our own"
                )
            with connect(self.redis_url) as redis:
                check_server(redis)
            return
        data = self._folder / "redis"
        data.mkdir(exist_ok=True)
        self._run("redis", redis_command(find_redis_server(), self._redis_port, data), REDIS_GRACE_S)
        self._say(f"starting Redis on {self.redis_url}")
        if not self._supervisor.wait_until(lambda: redis_answers(self.redis_url), REDIS_START_S):
            raise NotReady(f"Redis does not answer after {REDIS_START_S:g} s; {tail(self.logs / 'redis.log')}")

    def _run(self, name: str, command: list[str], grace_s: float) -> None:
        self._supervisor.start(Program(name, command, self._environ, self.logs / f"{name}.log", grace_s))

    def _stop(self) -> None:
        self._say("stopping: the API, the workers, Redis")
        for name in self._supervisor.stop(*STOP_PHASES):
            self._say(f"{name} did not stop and was killed")

    def _is_ready(self) -> bool:
        """Whether every model is served, or all that can be. Raises `NotReady` where that is too little."""
        try:
            if httpx.get(f"{self.url}/healthz", timeout=5, trust_env=False).status_code != 200:
                return False
            failed, is_settled = self._watched.troubles(), self._watched.is_settled()
        except (httpx.HTTPError, RedisError):
            return False
        if failed and (self._needs_all or len(failed) == len(self._settings.models)):
            raise NotReady("\n".join([*failed.values(), f"the whole log: {self.logs / 'worker.log'}"]))
        return is_settled

    def _readiness(self) -> str:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).text[:500]
        except httpx.HTTPError as error:
            return f"nothing ({type(error).__name__})"


def serve(folder: Path, say: Say, *, on_ready: Callable[[Stack], None], is_verbose: bool = False) -> int:
    """Serve until a signal; returns the exit code: 0 when asked to stop, 1 when a program ended or never got ready."""
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
    """``port``, or a free one for 0. Raises `InvalidSetting` where another program has it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InvalidSetting(f"host: {host!r} is no address of this machine: {error}") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise InvalidSetting(
                f"PORT: cannot listen on port {port} of {host} ({error.strerror}); "
                f"it takes a free one, for example PORT={free_port()}"
            ) from None
        return int(probe.getsockname()[1])


def reachable_host(host: str) -> str:
    """The host to put into a URL for a server that listens on ``host``."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def locked(folder: Path) -> IO[str]:
    """Lock ``folder`` until the file is closed or this process ends. Raises `InvalidSetting` where it is locked."""
    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InvalidSetting(f"another windrow runs in {folder}; stop it, or start this one elsewhere") from None
    return file
