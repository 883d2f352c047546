"""The Redis servers that every case of this folder runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import fakeredis
import pytest
from redis import Redis

from scheduler.queue import RedisQueue
from tests.support.queue_calls import MODEL
from tests.support.redis_server import RedisServer, find_embedded_server, find_newer_server

EMBEDDED, NEWER = "redis-6.2-embedded", "redis-7"


class Servers:
    """The real servers, started when first asked for."""

    def __init__(self) -> None:
        self._started: dict[str, RedisServer] = {}
        self._stack = ExitStack()

    def url(self, name: str) -> str:
        """The URL of an empty server; skips the test where there is no Redis 7 on this machine."""
        if name not in self._started:
            self._started[name] = self._stack.enter_context(RedisServer(binary=binary(name)))
        server = self._started[name]
        with server.client() as client:
            client.flushall()
        return server.url

    def close(self) -> None:
        """Stop what was started."""
        self._stack.close()


def binary(name: str) -> str:
    """The `redis-server` of that name."""
    if name == EMBEDDED:
        return find_embedded_server()
    newer = find_newer_server()
    if newer is None:
        pytest.skip("no redis-server of version 7 or later on the PATH")
    return newer


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.close()


@pytest.fixture(params=["fakeredis", EMBEDDED, NEWER])
def redis(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Redis]:
    """An empty Redis of each kind."""
    if request.param == "fakeredis":
        yield fakeredis.FakeRedis(server=fakeredis.FakeServer())
        return
    with Redis.from_url(servers.url(request.param)) as client:
        yield client


@pytest.fixture(params=[EMBEDDED, NEWER])
def real_url(request: pytest.FixtureRequest, servers: Servers) -> str:
    """The URL of an empty Redis of each real kind."""
    return servers.url(request.param)


@pytest.fixture
def real_redis(real_url: str) -> Iterator[Redis]:
    """A client of an empty Redis of each real kind."""
    with Redis.from_url(real_url) as client:
        yield client


@pytest.fixture(params=[EMBEDDED, NEWER])
def small_redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A Redis that may use little memory and refuses what does not fit."""
    options = ("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    with RedisServer(*options, binary=binary(request.param)) as server, server.client() as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    """The queue under test, empty."""
    return RedisQueue(redis, MODEL)
