"""The two formats that Redis keeps: a record while a request waits, Celery's result once it has ended."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windrow.errors import Canceled, DeadlineExceeded, ModelFailed, NewerRecord, OutOfMemory, WindrowError
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.queue.prediction import Prediction, ended_prediction, waiting_prediction
from windrow.scheduler.queue.records import parse_record
from windrow.scheduler.queue.request import Request
from windrow.scheduler.queue.results import encode_document, encode_exception, encode_outcome
from windrow.scheduler.queue.wire import ClaimReply

PAYLOAD = b'{"model":"minilm","input":"hay","parameters":{"truncate":true}}'
RECORD = b"3|0|7|acme:high|63|1700000000000001|1700000005000000|0.4375"
CLAIMED = Request("p1", "t", 1, 10.0, None, "acme:high", PAYLOAD, 1, 2)


def prediction(status: str) -> Prediction:
    found = waiting_prediction("p1", RECORD, PAYLOAD, waits=status == "queued", claimed_us=b"")
    assert found is not None
    return found


def result(ending: Request) -> bytes:
    """The document that is stored of an ending."""
    return encode_document(ending, 12_500_000, b"1970-01-01T00:00:12.500000+00:00")[1]


def test_a_record_is_read_back_as_it_was_written() -> None:
    assert parse_record(RECORD) == (1700000000.000001, 1700000005.0, 7, "acme:high", 63)


def test_a_record_without_a_deadline_says_none_and_not_zero() -> None:
    assert parse_record(b"3|0|1|acme:low|2|1000000|0|0.25")[1] is None


def test_a_record_of_another_version_is_refused_rather_than_misread() -> None:
    with pytest.raises(NewerRecord, match="another release"):
        parse_record(b"2|0|1|acme:low|2|1000000|0|0.25|")


def test_a_claim_is_read_in_fair_order() -> None:
    reply = ClaimReply([b"1700000001000000", 0, b"a b", [None, b"2"], [RECORD, RECORD], [PAYLOAD, b"{}"]])
    claim = reply.claim("token", *reply.records_and_payloads)
    assert (reply.ids, claim.now_s) == ([b"a", b"b"], 1700000001.0)
    assert [(one.id, one.attempt, one.token, one.place) for one in claim.requests] == [
        ("a", 1, "token", 1),
        ("b", 3, "token", 2),
    ]
    assert claim.requests[0].call() == {"model": "minilm", "input": "hay", "parameters": {"truncate": True}}


@pytest.mark.parametrize(
    ("records", "payloads"),
    [([None, RECORD], [PAYLOAD, PAYLOAD]), ([RECORD, RECORD], [None, PAYLOAD])],
)
def test_a_request_that_finished_before_it_was_read_is_left_out_of_the_claim(
    records: list[bytes | None], payloads: list[bytes | None]
) -> None:
    reply = ClaimReply([b"1700000001000000", 0, b"a b", []])
    assert reply.records_and_payloads == []
    assert [(one.id, one.place) for one in reply.claim("token", records, payloads).requests] == [("b", 2)]


def test_an_empty_claim_has_the_redis_time() -> None:
    claim = ClaimReply([b"1700000001000000", 1, b"", []]).claim("token", [], [])
    assert (claim.now_s, claim.requests, claim.suspects_wait) == (1700000001.0, [], True)


@pytest.mark.parametrize(
    ("outcome", "celery_status", "status"),
    [
        (Done({"embedding": [1.0]}), "SUCCESS", "succeeded"),
        (Failed(ModelFailed("no")), "FAILURE", "failed"),
        (Failed(DeadlineExceeded("late")), "REVOKED", "expired"),
        (Failed(Canceled("no")), "REVOKED", "canceled"),
    ],
)
def test_each_outcome_has_its_status_here_and_in_celery(outcome: Any, celery_status: str, status: str) -> None:
    ending = CLAIMED.set_outcome(outcome)
    document = json.loads(result(ending))
    assert encode_outcome(outcome)[0] == status
    assert (document["status"], document["windrow"]["status"]) == (celery_status, status)


def test_numpy_arrays_are_stored_as_numbers() -> None:
    ending = CLAIMED.set_outcome(Done({"embedding": np.array([0.5, 1.0], dtype=np.float32)}))
    assert json.loads(result(ending))["result"] == {"embedding": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("error", "exc_type", "module"),
    [
        (ModelFailed("no"), "ModelFailed", "windrow.errors"),
        (OutOfMemory("no"), "OutOfMemory", "windrow.errors"),
        (DeadlineExceeded("no"), "TaskRevokedError", "celery.exceptions"),
        (Canceled("no"), "TaskRevokedError", "celery.exceptions"),
    ],
)
def test_an_error_is_stored_as_an_exception_that_celery_can_raise(
    error: WindrowError, exc_type: str, module: str
) -> None:
    assert json.loads(encode_exception(error)) == {"exc_type": exc_type, "exc_message": ["no"], "exc_module": module}


def test_a_failed_prediction_has_a_code_and_a_detail() -> None:
    ending = CLAIMED.set_outcome(Failed(ModelFailed("the model raised")), 3.5, {"batch_size": 2})
    run = json.loads(result(ending))["windrow"]["run"]
    assert run == {
        "started_at": 3.5,
        "metrics": {"batch_size": 2},
        "error": {"code": "model_failed", "detail": "the model raised"},
    }


@pytest.mark.parametrize("status", ["queued", "processing"])
def test_an_unfinished_prediction_has_no_output_error_or_completion_time(status: str) -> None:
    found = prediction(status)
    assert (found.tenant, found.priority, found.model, found.input) == ("acme", "high", "minilm", "hay")
    assert (found.output, found.error, found.started_s, found.completed_s) == (None, None, None, None)
    assert found.status == status
    assert not found.is_ended


def test_a_request_that_finished_before_its_payload_was_read_is_none() -> None:
    assert waiting_prediction("p1", RECORD, None, waits=True, claimed_us=b"") is None


def test_a_tenant_may_have_a_colon_in_its_name() -> None:
    found = ended_prediction(result(replace(CLAIMED, flow="org:team:low").set_outcome(Done(1))))
    assert (found.tenant, found.priority) == ("org:team", "low")


def test_a_success_is_read_back_with_its_output_times_and_metrics() -> None:
    found = ended_prediction(result(CLAIMED.set_outcome(Done({"label": "good"}), 11.0, {"batch_size": 4})))
    assert found == Prediction(
        id="p1", model="minilm", status="succeeded", tenant="acme", priority="high", input="hay",
        parameters={"truncate": True}, output={"label": "good"}, error=None, metrics={"batch_size": 4},
        created_s=10.0, started_s=11.0, completed_s=12.5,
    )  # fmt: skip
    assert found.is_ended


def test_a_failure_is_read_back_with_its_error_and_no_output() -> None:
    found = ended_prediction(result(CLAIMED.set_outcome(Failed(ModelFailed("no")))))
    assert (found.status, found.output, found.error) == ("failed", None, {"code": "model_failed", "detail": "no"})
