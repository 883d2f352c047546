"""How everyone connects to Redis: plainly, over TLS, or to the master that Sentinels name."""

from __future__ import annotations

import socket
import sys
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, Connection, ConnectionPool, SSLConnection
from redis.retry import Retry

from windrow.scheduler.connection.redis_url import RedisUrl, parse_redis_url
from windrow.scheduler.connection.sentinel import MasterConnection, MasterFinder, MasterTLSConnection

#: Longer than any blocking command we send, in seconds.
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
#: A connection unused for so long is tried before it is used again, in seconds.
HEALTH_CHECK_S = 15
#: A peer that is silent on an idle connection is asked after 10 s, and given up 15 s later.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES = 10, 5, 3
#: What was sent and not acknowledged by then ends the connection, in milliseconds.
USER_TIMEOUT_MS = 20_000


def keepalive_options() -> dict[int, int]:
    """Socket options that notice a silent peer within half a minute, as far as this system has them."""
    wanted = {
        "TCP_KEEPIDLE" if sys.platform != "darwin" else "TCP_KEEPALIVE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": USER_TIMEOUT_MS,
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def connect(url: str, *, max_connections: int | None = None, wait_s: float | None = None) -> Redis:
    """A client for ``url`` (see `windrow.scheduler.connection.redis_url`), thread-safe, connecting at first use.

    Commands are not repeated by the client: a submit that was sent and not answered may have been taken in. Dead pooled
    connections are noticed before use, so a Redis that came back, or a new master, needs no retry.

    With ``wait_s`` a caller who finds all ``max_connections`` in use waits so long for one; without, that is an error.
    """
    where = parse_redis_url(url)
    options = _options(where)
    if max_connections is not None:
        options["max_connections"] = max_connections
    if wait_s is not None:
        pool = BlockingConnectionPool(timeout=wait_s, **options)
        return Redis.from_pool(pool)
    return Redis.from_pool(ConnectionPool(**options))


def _options(where: RedisUrl) -> dict[str, Any]:
    every: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "socket_keepalive_options": keepalive_options(),
        "health_check_interval": HEALTH_CHECK_S,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # saves two round trips, and a right in the ACL
        "db": where.db,
        "username": where.login.username,
        "password": where.login.password,
        **(where.tls or {}),
    }
    if where.service is not None:
        every["finder"] = MasterFinder(where)
        return every | {"connection_class": MasterConnection if where.tls is None else MasterTLSConnection}
    host, port = where.hosts[0]
    return every | {
        "host": host,
        "port": port,
        "connection_class": Connection if where.tls is None else SSLConnection,
    }
