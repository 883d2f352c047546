"""Fixtures that every ring of tests may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from redis import Redis

from tests.support.redis_server import RedisServer

# A busy machine is no reason to fail: speed belongs to the benchmarks.
settings.register_profile("windrow", deadline=None)
settings.load_profile("windrow")

pytest_plugins = ["tests.support.api_fixtures", "tests.support.api_server", "tests.support.engine_fixtures"]


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """One real Redis for the whole run. Missing Redis is a failure, never a skip."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> str:
    """The URL of a real and empty Redis."""
    with redis_process.client() as client:
        client.flushall()
    return redis_process.url


@pytest.fixture
def redis_client(redis_server: str) -> Iterator[Redis]:
    """A client of a real and empty Redis."""
    with Redis.from_url(redis_server) as client:
        yield client
