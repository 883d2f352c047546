"""Connects to Redis: directly, over TLS, or to the master that Sentinels report."""

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

#: Longer than any blocking command of this package, in seconds.
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
#: A connection that was idle for this long is checked before its next use, in seconds.
HEALTH_CHECK_S = 15
#: TCP probes an idle connection after 10 s, and closes it 15 s later if the peer does not answer.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES = 10, 5, 3
#: TCP closes a connection whose data is not acknowledged within this time, in milliseconds.
USER_TIMEOUT_MS = 20_000


def keepalive_options() -> dict[int, int]:
    """Return the socket options that detect a dead peer within half a minute, as far as this system has them."""
    wanted = {
        "TCP_KEEPIDLE" if sys.platform != "darwin" else "TCP_KEEPALIVE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": USER_TIMEOUT_MS,
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def connect(url: str, *, max_connections: int | None = None, wait_s: float | None = None) -> Redis:
    """Return a thread-safe client for ``url`` (see `windrow.scheduler.connection.redis_url`); it connects at first use.

    The client never repeats a command, because a submit whose reply was lost may have been accepted. Dead connections
    in the pool are detected before use, so no retry is needed after a restart of Redis or a failover.

    If all ``max_connections`` are in use, a caller waits up to ``wait_s`` seconds for one; without ``wait_s``, that is
    an error.
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
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "socket_keepalive_options": keepalive_options(),
        "health_check_interval": HEALTH_CHECK_S,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # saves two round trips, and a permission in the ACL
        "db": where.db,
        "username": where.login.username,
        "password": where.login.password,
        **(where.tls or {}),
    }
    if where.service is not None:
        options["finder"] = MasterFinder(where)
        return options | {"connection_class": MasterConnection if where.tls is None else MasterTLSConnection}
    host, port = where.hosts[0]
    return options | {
        "host": host,
        "port": port,
        "connection_class": Connection if where.tls is None else SSLConnection,
    }
