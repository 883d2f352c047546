"""Connections to the server that the Sentinels report as the master.

redis-py's own `SentinelConnectionPool` cannot make callers wait for a connection, keeps a dead connection object for
each failed attempt, and leaves a connection open whose reply was not read.
"""

from __future__ import annotations

import threading
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError, ReadOnlyError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from windrow.scheduler.connection.redis_url import RedisUrl

#: Timeout of one Sentinel, in seconds; then the next one is asked.
SENTINEL_TIMEOUT_S = 1.0


def sentinel_options(where: RedisUrl) -> dict[str, Any]:
    """Return the arguments of redis-py's clients of the Sentinels."""
    return {
        "username": where.sentinel_login.username,
        "password": where.sentinel_login.password,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        # No retry: the next Sentinel is asked.
        "retry": Retry(NoBackoff(), 0),
        **({} if where.tls is None else {"ssl": True, **where.tls}),
    }


class MasterFinder:
    """Asks the Sentinels for the master, in one thread at a time, and remembers the answer."""

    def __init__(self, where: RedisUrl) -> None:
        self._service = where.service or ""
        self._sentinels = Sentinel(where.hosts, sentinel_kwargs=sentinel_options(where))
        self._lock = threading.Lock()  # discover_master reorders its list, so two threads would lose entries
        self.master: tuple[str, int] | None = None

    def find(self) -> tuple[str, int]:
        """Return host and port of the master. Raises `redis.exceptions.ConnectionError` if no Sentinel knows one."""
        with self._lock:
            host, port = self._sentinels.discover_master(self._service)
            self.master = (str(host), int(port))
            return self.master


class _ToMaster(Connection):
    """Finds the master whenever it opens its socket, and drops a socket to a former master."""

    def __init__(self, *, finder: MasterFinder, **options: Any) -> None:
        super().__init__(**options)
        self._finder = finder

    def connect(self) -> None:
        """Connect if necessary; the pool calls this before each use."""
        if self._sock is not None and (self.host, self.port) != self._finder.master:
            self.disconnect()
        super().connect()

    def _connect(self) -> Any:
        self.host, self.port = self._finder.find()
        return super()._connect()

    def read_response(self, *args: Any, **named: Any) -> Any:
        """Read one reply; if it is READONLY, the server is no longer the master, and the connection is closed."""
        try:
            return super().read_response(*args, **named)
        except ResponseError as error:
            # Redis 6.2 wraps an error inside a script: "ERR Error running script ... -READONLY You can't write ...".
            if not (isinstance(error, ReadOnlyError) or "-READONLY " in str(error)):
                raise
            self.disconnect()
            raise ConnectionError("this server is no longer the master; the next command asks the Sentinels") from error


class MasterConnection(_ToMaster):
    """A plain connection to the master."""


class MasterTLSConnection(_ToMaster, SSLConnection):
    """A connection to the master over TLS."""
