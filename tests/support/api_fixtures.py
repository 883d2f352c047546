"""Fixtures of the API's integration tests; tests/conftest.py makes them available everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.api_client import ApiClient
from tests.support.fake_worker import FakeWorker
from windrow.api import create_app
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS

NewClient = Callable[..., ApiClient]


def make_settings(url: str, **more: object) -> Settings:
    """Return settings with the default model and the Redis at ``url``."""
    return Settings.model_validate({"models": DEFAULT_MODELS, "redis_url": url} | more)


@pytest.fixture
def worker(redis_server: str) -> Iterator[FakeWorker]:
    """A worker of the default model whose results are the lengths of the texts."""
    with FakeWorker(redis_server, "minilm") as fake:
        yield fake


@pytest.fixture
def new_client() -> Iterator[NewClient]:
    """Makes clients of new applications: ``new_client(redis_url, max_body_bytes=1024)``."""
    made: list[ApiClient] = []

    def make(url: str, **more: object) -> ApiClient:
        made.append(ApiClient(create_app(make_settings(url, **more))))
        return made[-1]

    yield make
    for client in made:
        client.service.waiters.close()


@pytest.fixture
def client(redis_server: str, worker: FakeWorker, new_client: NewClient) -> ApiClient:
    """A client of an application with a worker."""
    return new_client(redis_server, max_body_bytes=200_000, max_batch_inputs=50)
