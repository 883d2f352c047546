"""Without Redis the API answers 503, and it serves again without a restart once Redis is back."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api_client import ApiClient, assert_problem
from tests.support.api_fixtures import NewClient, make_settings
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from windrow.api import create_app
from windrow.scheduler.core.outcomes import Done

pytestmark = pytest.mark.integration

EVERY_CALL = [
    ("post", "/v1/predictions", {"json": {"model": "minilm", "input": "a"}}),
    ("post", "/v1/predictions", {"json": {"model": "minilm", "input": "a"}, "headers": {"Prefer": "wait=5"}}),
    ("post", "/v1/predictions:batch", {"json": {"model": "minilm", "inputs": ["a", "b"]}}),
    ("get", "/v1/predictions/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", {}),
    ("get", "/v1/predictions/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA?wait=5", {}),
    ("post", "/v1/predictions/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/cancel", {}),
    ("get", "/readyz", {}),
    ("get", "/metrics", {}),
]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


def call(client: ApiClient, method: str, path: str, options: dict[str, Any]) -> Any:
    return getattr(client, method)(path, **options)


def test_every_call_is_503_without_redis_and_works_once_redis_is_back(server: RedisServer) -> None:
    app = create_app(make_settings(server.url))
    client = ApiClient(app)
    with FakeWorker(server.url, "minilm"):
        assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"
    server.kill()
    for method, path, options in EVERY_CALL:
        response = call(client, method, path, options)
        assert_problem(response, 503, "redis_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/models").status_code == 200
    server.start()
    with FakeWorker(server.url, "minilm"):
        # The state of the workers is cached for a second.
        assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"
        assert client.get("/readyz").status_code == 200
    app.extensions["windrow"].waiters.close()


def test_an_application_started_before_redis_serves_once_redis_is_up(
    server: RedisServer, new_client: NewClient
) -> None:
    server.kill()
    client = new_client(server.url)
    assert_problem(client.predict(), 503, "redis_unavailable")
    server.start()
    with FakeWorker(server.url, "minilm"):
        assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"


def test_an_accepted_request_is_never_answered_with_an_error(server: RedisServer, new_client: NewClient) -> None:
    client = new_client(server.url)
    with FakeWorker(server.url, "minilm") as worker:
        worker.pause()
        assert client.predict().status_code == 202

        service = client.service
        submit = service.queues["minilm"].submit

        def submit_and_kill(*args: Any, **named: Any) -> list[str]:
            ids: list[str] = submit(*args, **named)
            server.kill()
            return ids

        service.queues["minilm"].submit = submit_and_kill
        response = client.predict("the text", headers={"Prefer": "wait=1"})
    assert response.status_code == 202
    assert (response.json["status"], response.json["input"]) == ("queued", "the text")
    assert response.headers["Location"].endswith(response.json["id"])


def test_a_redis_without_memory_is_503_until_it_has_memory_again(server: RedisServer, new_client: NewClient) -> None:
    client = new_client(server.url)
    with FakeWorker(server.url, "minilm", lambda call: Done(1)), server.client() as redis:
        assert client.predict().status_code == 202
        redis.config_set("maxmemory", "1")
        for _ in range(2):  # as one command and within a script
            assert "memory is full" in assert_problem(client.predict(), 503, "redis_unavailable")
        redis.config_set("maxmemory", "0")
        assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"
