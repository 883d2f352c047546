"""Whatever the OpenAPI document allows, and whatever it does not, is answered as the document says."""

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
#: There is no wrong way to call those that take nothing.
TAKING = [("post", "/v1/predictions"), ("post", "/v1/predictions:batch"), ("get", "/v1/predictions/{id}"),
          ("post", "/v1/predictions/{id}/cancel"), ("post", "/v1/embeddings"), ("post", "/v1/completions"),
          ("post", "/v1/chat/completions")]  # fmt: skip
few = settings(max_examples=40, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis of these tests' own."""
    with RedisServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def worker(redis: RedisServer) -> Iterator[FakeWorker]:
    """A worker of the model minilm."""
    with FakeWorker(redis.url, "minilm") as worker:
        yield worker


@pytest.fixture(autouse=True)
def heard(worker: FakeWorker) -> None:
    """It is heard of at the start of each test, however long the ones before took."""
    worker.beat()


@pytest.fixture(scope="module")
def app(redis: RedisServer, worker: FakeWorker) -> Iterator[Flask]:
    """An application with a worker, that wants a key."""
    app = create_app(make_settings(redis.url, tenants={"acme": {"keys": [hash_key(KEY)]}}, worker_grace_s=3600))
    yield app
    app.extensions["windrow"].waiters.close()


@pytest.fixture(scope="module")
def described(app: Flask) -> BaseSchema:
    """The document that the application serves of itself."""
    return schemathesis.openapi.from_wsgi("/openapi.json", app)


@pytest.fixture(scope="module")
def narrowed(app: Flask) -> BaseSchema:
    """The same, with what no document can say of a deployment: its models, and what they take."""
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
        properties.pop("webhook", None)  # of the tenant's own, and only where it has a secret
    dimensions = raw["components"]["schemas"]["EmbedParameters"]["properties"]["dimensions"]
    dimensions["anyOf"][0]["maximum"] = 384
    for _, path in TAKING[:2]:
        operation = raw["paths"][path]["post"]
        # A key that comes again has another body; and the longest deadline is a week.
        operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "Idempotency-Key"]
        (cancel_after,) = (one for one in operation["parameters"] if one["name"] == "Cancel-After")
        cancel_after["schema"]["pattern"] = "^[1-9][0-9]{0,3}(ms|s|m)?$"
    schema = schemathesis.openapi.from_dict(raw)
    schema.app = app
    return schema


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_document_allows_is_answered_as_it_says(described: BaseSchema, method: str, path: str) -> None:
    @few
    @given(described[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])

    check()


@pytest.mark.parametrize(("method", "path"), TAKING)
def test_what_the_document_does_not_allow_is_refused_as_it_says(described: BaseSchema, method: str, path: str) -> None:
    @few
    @given(described[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Case) -> None:
        case.call_and_validate(headers=HEADERS)

    check()


@pytest.mark.parametrize(("method", "path"), TAKING[:2])
def test_whatever_a_model_takes_is_taken_in(narrowed: BaseSchema, method: str, path: str) -> None:
    seen: set[int] = set()

    @few
    @given(narrowed[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        seen.add(case.call_and_validate(headers=HEADERS).status_code)

    check()
    assert 202 in seen
