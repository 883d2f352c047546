"""How everyone connects to Redis."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Longer than any blocking command we send, in seconds.
SOCKET_TIMEOUT_S = 10.0


def connect(url: str, *, max_connections: int | None = None) -> Redis:
    """A client for ``url``, thread-safe, connecting at first use.

    Commands are not repeated by the client: a submit that was sent and not answered may have been taken in. Dead pooled
    connections are noticed before use, so a Redis that came back needs no retry.
    """
    return Redis.from_url(
        url,
        max_connections=max_connections,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=3.0,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
