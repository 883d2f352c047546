"""The flows of the clients, with scripted replies and a clock that only pauses advance."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from windrow.client.prediction import Prediction
from windrow.client.protocol import Flow, Flows, HttpCall, NoReply, Reply, Sleep, build_request
from windrow.errors import ClientError, RequestRefused, ServerUnreachable

REQUEST = build_request("minilm", input="hay", parameters=None, priority="normal", deadline_ms=None)
DOWN = NoReply("connection refused", was_sent=False)
BROKEN = NoReply("the connection broke", was_sent=True)


def prediction(status: str = "succeeded", **more: Any) -> Reply:
    return Reply(200, json.dumps({"id": "p1", "model": "minilm", "status": status, **more}).encode())


def problem(status: int, code: str, retry_after: str | None = None) -> Reply:
    body = {"type": f"urn:windrow:error:{code}", "title": "No", "status": status, "detail": "why", "code": code}
    return Reply(status, json.dumps(body).encode(), retry_after)


class Driver:
    """Runs a flow: replies from a list, repeating the last one, and advances the clock by pauses and waits."""

    def __init__(self, *answers: Reply | NoReply, hold: bool = False) -> None:
        self.now_s = 1000.0
        self.calls: list[HttpCall] = []
        self.pauses: list[float] = []
        self._answers = list(answers)
        self._hold = hold

    def run(self, make_flow: Callable[[Flows], Flow[Any]], timeout_s: float = 60.0) -> Any:
        flow = make_flow(Flows(timeout_s, lambda: self.now_s))
        answer: Reply | NoReply | None = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(step, Sleep):
                self.pauses.append(step.seconds)
                self.now_s += step.seconds
                answer = None
            else:
                self.calls.append(step)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                ended = isinstance(answer, NoReply) or b'"succeeded"' in answer.body or answer.status >= 300
                self.now_s += step.hold_s if self._hold and not ended else 0.01


def test_the_retries_of_a_submit_keep_its_idempotency_key() -> None:
    driver = Driver(BROKEN, problem(503, "redis_unavailable", "1"), prediction("queued"))
    assert driver.run(lambda flows: flows.submit(REQUEST, None)).status == "queued"
    keys = [call.headers["Idempotency-Key"] for call in driver.calls]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_two_submits_carry_different_keys() -> None:
    driver = Driver(prediction("queued"))
    driver.run(lambda flows: flows.submit(REQUEST, None))
    driver.run(lambda flows: flows.submit(REQUEST, None))
    assert len({call.headers["Idempotency-Key"] for call in driver.calls}) == 2


def test_the_callers_key_is_used() -> None:
    driver = Driver(prediction())
    driver.run(lambda flows: flows.submit(REQUEST, "mine"))
    assert driver.calls[0].headers["Idempotency-Key"] == "mine"


def test_retry_after_is_honoured() -> None:
    driver = Driver(problem(429, "queue_full", "7"), prediction())
    driver.run(lambda flows: flows.submit(REQUEST, None))
    assert driver.pauses == [7.0]


def test_a_retry_after_beyond_the_timeout_is_reported_at_once() -> None:
    driver = Driver(problem(429, "queue_full", "61"))
    with pytest.raises(RequestRefused) as refused:
        driver.run(lambda flows: flows.submit(REQUEST, None))
    assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == ("queue_full", 429, 61.0)
    assert driver.pauses == []


def test_a_server_that_stays_full_is_reported_within_the_timeout() -> None:
    driver = Driver(problem(503, "no_worker", "2"))
    with pytest.raises(RequestRefused, match="no_worker"):
        driver.run(lambda flows: flows.submit(REQUEST, None), timeout_s=10.0)
    assert 4 <= len(driver.pauses) <= 5


def test_an_unreachable_server_is_reported_after_a_few_attempts() -> None:
    driver = Driver(DOWN)
    with pytest.raises(ServerUnreachable, match="refused"):
        driver.run(lambda flows: flows.models())
    assert len(driver.calls) == 5
    assert sum(driver.pauses) < 3


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 413, 422, 500])
def test_an_error_that_a_retry_cannot_fix_is_reported_at_once(status: int) -> None:
    driver = Driver(problem(status, "some_code"))
    with pytest.raises(RequestRefused) as refused:
        driver.run(lambda flows: flows.get("p1"))
    assert (refused.value.status, refused.value.code, refused.value.detail) == (status, "some_code", "why")
    assert len(driver.calls) == 1


@pytest.mark.parametrize("answer", [BROKEN, problem(503, "redis_unavailable", "1")])
def test_submit_many_is_not_retried_if_the_inputs_may_be_queued(answer: Reply | NoReply) -> None:
    driver = Driver(answer)
    with pytest.raises(ClientError):
        driver.run(lambda flows: flows.submit_many({"model": "minilm", "inputs": ["a"]}))
    assert len(driver.calls) == 1


@pytest.mark.parametrize("answer", [DOWN, problem(429, "queue_full", "1")])
def test_submit_many_is_retried_if_no_input_was_queued(answer: Reply | NoReply) -> None:
    queued = Reply(202, json.dumps({"predictions": [{"id": "a", "model": "m", "status": "queued"}]}).encode())
    driver = Driver(answer, queued)
    assert [one.id for one in driver.run(lambda flows: flows.submit_many({"model": "m", "inputs": ["a"]}))] == ["a"]


def test_predict_waits_until_the_prediction_has_finished() -> None:
    driver = Driver(prediction("queued"), prediction("processing"), prediction(output={"embedding": [1.0]}), hold=True)
    ended = driver.run(lambda flows: flows.predict(REQUEST, None, 200.0))
    assert ended.result() == {"embedding": [1.0]}
    assert driver.calls[0].headers["Prefer"] == "wait=60"
    assert [call.params.get("wait") for call in driver.calls[1:]] == ["60", "60"]
    assert driver.pauses == []


def test_predict_returns_the_unfinished_prediction_after_its_time_limit() -> None:
    driver = Driver(prediction("processing"), hold=True)
    pending = driver.run(lambda flows: flows.wait("p1", 90.0))
    assert pending.status == "processing"
    assert [call.params["wait"] for call in driver.calls] == ["60", "30"]


def test_a_server_that_answers_at_once_is_not_polled_in_a_busy_loop() -> None:
    driver = Driver(prediction("processing"))
    driver.run(lambda flows: flows.wait("p1", 1.0))
    assert len(driver.calls) <= 12


def test_the_wait_is_sent_in_whole_seconds() -> None:
    driver = Driver(prediction())
    driver.run(lambda flows: flows.predict(REQUEST, None, 0.2))
    assert driver.calls[0].headers["Prefer"] == "wait=1"


def test_without_a_wait_no_preference_is_sent() -> None:
    driver = Driver(prediction("queued"))
    driver.run(lambda flows: flows.submit(REQUEST, None))
    assert "Prefer" not in driver.calls[0].headers


@pytest.mark.parametrize("id", ["a/b", "../b", "a?b#c", "é"])
def test_an_id_is_escaped_in_the_path(id: str) -> None:
    driver = Driver(prediction())
    driver.run(lambda flows: flows.get(id))
    assert driver.calls[0].path.count("/") == 3
    assert not set("?# ") & set(driver.calls[0].path)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Reply(502, b"<html>Bad Gateway</html>"), "http_502"),
        (Reply(500, b'{"oops": 1}'), "http_500"),
        (Reply(200, b"<html>Welcome</html>"), "bad_answer"),
        (Reply(200, b"[1]"), "bad_answer"),
        (Reply(200, b'{"id": 1}'), "bad_answer"),
        (Reply(200, b'{"predictions": "x"}'), "bad_answer"),
        (Reply(404, b'{"error": {"message": "no such model", "code": "unknown_model"}}'), "unknown_model"),
    ],
)
def test_a_response_of_another_server_is_an_error_with_a_code(answer: Reply, code: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        Driver(answer).run(lambda flows: flows.get("p1"), timeout_s=0.01)
    assert refused.value.code == code


def test_an_unset_option_is_not_sent() -> None:
    assert REQUEST == {"model": "minilm", "input": "hay", "priority": "normal"}


def test_unknown_fields_of_a_newer_server_are_ignored() -> None:
    body = {"id": "a", "model": "m", "status": "queued", "mood": "good", "metrics": None}
    assert Prediction.from_json(body) == Prediction("a", "m", "queued")
