"""Celery's connection settings: broker and result backend are the Redis of the `redis_url` setting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

from kombu import Connection

from windrow.scheduler.connection.connect import CONNECT_TIMEOUT_S, HEALTH_CHECK_S, SOCKET_TIMEOUT_S, keepalive_options
from windrow.scheduler.connection.redis_url import parse_redis_url
from windrow.scheduler.connection.sentinel import sentinel_options

#: Name of the failover strategy `keep_server`. A name, because `celery inspect conf` sends the settings as JSON.
KEEP_SERVER = "windrow.keep_server"


def celery_connection(url: str) -> dict[str, Any]:
    """Return Celery's settings for the Redis at ``url``.

    Sentinels take Celery's own form, ``sentinel://...;sentinel://...`` with the master's name in the options. User and
    password are separate settings, because Celery hides only the first password of a URL when it shows its settings.
    """
    where = parse_redis_url(url)
    scheme = "sentinel" if where.service is not None else "redis" if where.tls is None else "rediss"
    hosts = [(f"[{host}]" if ":" in host else host, port) for host, port in where.hosts]
    servers = ";".join(f"{scheme}://{host}:{port}/{where.db}" for host, port in hosts)
    tls = None if where.tls is None else dict(where.tls)
    sentinels: dict[str, Any] = {}
    if where.service is not None:
        sentinels = {"master_name": where.service, "sentinel_kwargs": sentinel_options(where)}
    return {
        "broker_url": servers,
        # These two override CELERY_BROKER_URL, which Celery would use verbatim.
        "broker_read_url": servers,
        "broker_write_url": servers,
        "broker_user": where.login.username,
        "broker_password": where.login.password,
        "broker_use_ssl": tls,
        "broker_transport_options": {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "socket_keepalive_options": keepalive_options(),
            "health_check_interval": HEALTH_CHECK_S,
            **sentinels,
        },
        "broker_failover_strategy": KEEP_SERVER,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Errors that Redis returns while it is full, loading or becoming a replica must not end the worker.
        "broker_channel_error_retry": True,
        "result_backend": servers,
        "result_backend_transport_options": sentinels,
        "redis_username": where.login.username,
        "redis_password": where.login.password,
        "redis_backend_use_ssl": tls,
        "redis_socket_timeout": SOCKET_TIMEOUT_S,
        "redis_socket_connect_timeout": CONNECT_TIMEOUT_S,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": HEALTH_CHECK_S,
    }


def keep_server(servers: Iterable[Any]) -> Iterator[str]:
    """Failover strategy that always yields the first server.

    Each connection asks all Sentinels anyway, and switching to another server would lose user and password.
    """
    return repeat(urlsplit(str(next(iter(servers)))).hostname or "")


Connection.failover_strategies[KEEP_SERVER] = keep_server
