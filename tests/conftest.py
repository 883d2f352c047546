"""Fixtures that every ring of tests may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis

from tests.support.redis_server import RedisServer

# A busy machine is no reason to fail: speed belongs to the benchmarks.
settings.register_profile("windrow", deadline=None)
settings.load_profile("windrow")

# Where several files are tested at once, threads that wait for each other would wait for those of the other files too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

#: The slowest files first and many small ones last, so that processes that share the files end together.
RINGS = ("faults", "integration", "e2e", "contract", "unit")

pytest_plugins = ["tests.support.api_fixtures", "tests.support.api_server", "tests.support.engine_fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files by their ring; within a ring, and within a file, the order stays."""
    items.sort(key=_ring_of)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported, torch and all the tests: it would take 2 s each time."""
    gc.freeze()


def _ring_of(item: pytest.Item) -> int:
    ring = item.path.relative_to(Path(__file__).parent).parts[0]
    return RINGS.index(ring) if ring in RINGS else len(RINGS)


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
