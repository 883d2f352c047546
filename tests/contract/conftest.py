"""The Redis servers on which every test of this folder runs."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
from redis import Redis

from tests.support.backends import EMBEDDED, FAKE, NEWER, Servers
from tests.support.queue_calls import MODEL
from windrow.scheduler.queue import RedisQueue


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.fixture(params=[FAKE, EMBEDDED, NEWER])
def redis(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Redis]:
    """A client of an empty Redis of each kind."""
    if request.param == FAKE:
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


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    """The queue under test, which is empty."""
    return RedisQueue(redis, MODEL)
