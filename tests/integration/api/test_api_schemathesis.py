"""Requests that the OpenAPI document allows, and requests that it does not, are answered as it describes."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.api_client import DOCUMENT
from tests.support.api_fixtures import make_settings
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from windrow.api import create_app
from windrow.api.auth.keys import hash_key, make_key

pytestmark = pytest.mark.integration

KEY = make_key()
HEADERS = {"Authorization": f"Bearer {KEY}"}
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
#: Operations with a body or parameters; the others have no invalid calls.
WITH_INPUT = [("post", "/v1/predictions"), ("post", "/v1/predictions:batch"), ("get", "/v1/predictions/{id}"),
          ("post", "/v1/predictions/{id}/cancel"), ("post", "/v1/embeddings"), ("post", "/v1/completions"),
          ("post", "/v1/chat/completions")]  # fmt: skip
few = settings(max_examples=40, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis for these tests alone."""
    with RedisServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def worker(redis: RedisServer) -> Iterator[FakeWorker]:
    """A worker of the model minilm."""
    with FakeWorker(redis.url, "minilm") as worker:
        yield worker


@pytest.fixture(autouse=True)
def beat(worker: FakeWorker) -> None:
    """Send a heartbeat at the start of each test, however long the tests before took."""
    worker.beat()


@pytest.fixture(scope="module")
def app(redis: RedisServer, worker: FakeWorker) -> Iterator[Flask]:
    """An application with a worker and an API key."""
    app = create_app(make_settings(redis.url, tenants={"acme": {"keys": [hash_key(KEY)]}}, worker_grace_s=3600))
    yield app
    app.extensions["windrow"].waiters.close()


@pytest.fixture(scope="module")
def described(app: Flask) -> BaseSchema:
    """The document as the application serves it."""
    return schemathesis.openapi.from_wsgi("/openapi.json", app)


@pytest.fixture(scope="module")
def narrowed(app: Flask) -> BaseSchema:
    """The document narrowed to the models of this deployment and their inputs."""
    raw: dict[str, Any] = deepcopy(DOCUMENT)
    text = {"type": "string", "maxLength": 50}
    for name, field, kind in (
        ("PredictionRequest", "input", text),
        ("BatchRequest", "inputs", {"type": "array", "minItems": 1, "maxItems": 20, "items": text}),
    ):
        properties = raw["components"]["schemas"][name]["properties"]
        properties["model"] = {"enum": ["minilm"]}
        properties["parameters"] = {"$ref": "#/components/schemas/EmbedParameters"}
        properties[field] = kind
        properties.pop("webhook", None)  # requires a webhook secret
    dimensions = raw["components"]["schemas"]["EmbedParameters"]["properties"]["dimensions"]
    dimensions["anyOf"][0]["maximum"] = 384
    for _, path in WITH_INPUT[:2]:
        operation = raw["paths"][path]["post"]
        # A repeated key would have another body, and the longest deadline is a week.
        operation["parameters"] = [
            parameter for parameter in operation["parameters"] if parameter["name"] != "Idempotency-Key"
        ]
        (cancel_after,) = (parameter for parameter in operation["parameters"] if parameter["name"] == "Cancel-After")
        cancel_after["schema"]["pattern"] = "^[1-9][0-9]{0,3}(ms|s|m)?$"
    schema = schemathesis.openapi.from_dict(raw)
    schema.app = app
    return schema


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_request_that_the_document_allows_gets_a_documented_response(
    described: BaseSchema, method: str, path: str
) -> None:
    @few
    @given(described[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])

    check()


@pytest.mark.parametrize(("method", "path"), WITH_INPUT)
def test_a_request_that_the_document_does_not_allow_is_refused_as_documented(
    described: BaseSchema, method: str, path: str
) -> None:
    @few
    @given(described[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Case) -> None:
        case.call_and_validate(headers=HEADERS)

    check()


@pytest.mark.parametrize(("method", "path"), WITH_INPUT[:2])
def test_a_valid_request_for_the_served_model_is_accepted(narrowed: BaseSchema, method: str, path: str) -> None:
    seen: set[int] = set()

    @few
    @given(narrowed[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        seen.add(case.call_and_validate(headers=HEADERS).status_code)

    check()
    assert 202 in seen
