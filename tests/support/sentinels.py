"""A Redis master with replicas and three Sentinels, started for a test."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.support.redis_server import RedisServer, find_redis_server, free_port

SERVICE = "mymaster"
SENTINELS = 3
#: Time limit in seconds for the Sentinels' discovery and for a failover, on a busy machine.
LIMIT_S = 60.0


class SentinelServers:
    """The servers of a ``with`` block and their ``url``; the Sentinels require a password, the others do not."""

    def __init__(self, password: str = "hush", replicas: int = 2) -> None:
        self._password = password
        self.ports = [free_port() for _ in range(SENTINELS)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0?sentinel_password={password}"
        first = RedisServer()
        self.servers = [first, *(RedisServer("--replicaof", "127.0.0.1", str(first.port)) for _ in range(replicas))]
        self._folder = tempfile.TemporaryDirectory(prefix="windrow-sentinel-")
        self._exits = ExitStack()

    def __enter__(self) -> SentinelServers:
        with ExitStack() as exits:
            exits.callback(self._folder.cleanup)
            for server in self.servers:
                exits.enter_context(server)
            for port in self.ports:
                exits.callback(self._start_sentinel(port))
            self._until(self._is_monitored, "the Sentinels monitor all servers")
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def master_port(self) -> int:
        """The port of the master, as the first Sentinel reports it."""
        with Redis(port=self.ports[0], password=self._password) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(SERVICE)[1])

    @property
    def master(self) -> RedisServer:
        """The present master."""
        port = self.master_port
        return next(server for server in self.servers if server.port == port)

    def kill_master(self) -> RedisServer:
        """Kill the master, and return it once a replica has become master."""
        dead = self.master
        dead.kill()
        self._until(lambda: self.master_port != dead.port, "a replica has become master")
        return dead

    def _start_sentinel(self, port: int) -> Any:
        config = Path(self._folder.name) / f"{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder.name}\nrequirepass {self._password}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 5000\n"
        )
        with config.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen([find_redis_server(), str(config), "--sentinel"], stdout=log, stderr=log)

        def stop() -> None:
            process.kill()
            process.wait()

        return stop

    def _is_monitored(self) -> bool:
        for port in self.ports:
            with Redis(port=port, password=self._password) as sentinel:
                state = sentinel.sentinel_masters()[SERVICE]
            if (state["num-other-sentinels"], state["num-slaves"]) != (SENTINELS - 1, len(self.servers) - 1):
                return False
        with self.servers[0].client() as client:
            replicas = client.info("replication")
        return all(replicas[f"slave{number}"]["state"] == "online" for number in range(len(self.servers) - 1))

    def _until(self, is_true: Any, what: str) -> None:
        end_s = time.monotonic() + LIMIT_S
        while True:
            try:
                if is_true():
                    return
            except (RedisError, KeyError):
                pass
            assert time.monotonic() < end_s, f"waited {LIMIT_S:.0f} s in vain until {what}"
            time.sleep(0.1)
