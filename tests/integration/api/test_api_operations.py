"""The routes for operators: models, health, readiness and metrics."""

import pytest
from redis import Redis

from tests.support.api_client import ApiClient, assert_problem
from tests.support.api_fixtures import NewClient, make_settings
from tests.support.fake_worker import FakeWorker
from windrow.api import create_app
from windrow.errors import ModelFailed
from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.queue.load_failures import report_load_failure
from windrow.scheduler.queue.observations import Observations

pytestmark = pytest.mark.integration


def test_models_are_listed_in_openais_format(client: ApiClient) -> None:
    listed = client.get("/v1/models").json
    assert listed["object"] == "list"
    assert [(model["id"], model["object"], model["task"]) for model in listed["data"]] == [("minilm", "model", "embed")]


def test_a_models_entry_has_the_fields_that_its_worker_reports(
    redis_server: str, worker: FakeWorker, client: ApiClient
) -> None:
    (before,) = client.get("/v1/models").json["data"]
    assert (before["workers"], before["strategy"]) == (1, None)
    info = {"model": "minilm", "strategy": "bucket", "strategy_note": "it cannot pack", "max_input_tokens": 256}
    info |= {"reload_note": "reloaded at 2026-01-02T03:04:05Z"}
    info |= {"dtype": "float32", "dtype_note": "int8 is not faster here", "relative_error": 1e-7}
    worker.queue.heartbeat("worker@test", Heartbeat(**info), stale_s=60)  # type: ignore[arg-type]
    (model,) = client.get("/v1/models").json["data"]
    assert model | info == model | {"model": "minilm"}


def test_the_server_is_alive_without_a_worker_but_not_ready(redis_server: str, new_client: NewClient) -> None:
    client = new_client(redis_server)
    assert client.get("/healthz").json == {"status": "ok"}
    assert "minilm" in assert_problem(client.get("/readyz"), 503, "no_worker")
    with FakeWorker(redis_server, "minilm"):
        assert client.get("/readyz").json == {"status": "ready"}


def test_a_model_that_could_not_be_loaded_is_listed_with_the_reason_and_refused(
    redis_server: str, redis_client: Redis, new_client: NewClient
) -> None:
    reason = "/models/minilm: no safetensors"
    client = new_client(redis_server)
    report_load_failure(redis_client, "minilm", "worker@test/1", reason)
    for refused in (client.get("/readyz"), client.predict()):
        detail = assert_problem(refused, 503, "no_worker")
        assert detail == f"model 'minilm' could not be loaded: worker@test/1: {reason}"
    # Clients that follow it report the error instead of retrying for minutes.
    assert client.predict().headers["Retry-After"] == "120"
    (model,) = client.get("/v1/models").json["data"]
    assert (model["workers"], model["failures"]) == (0, {"worker@test/1": reason})
    with FakeWorker(redis_server, "minilm"):  # one worker that loaded it is enough
        assert client.get("/readyz").json == {"status": "ready"}
        assert new_client(redis_server).predict().status_code == 202
        assert client.get("/v1/models/minilm").json["failures"] == {"worker@test/1": reason}


def test_a_model_served_until_a_moment_ago_is_refused_once_it_fails_to_load(
    redis_server: str, redis_client: Redis, worker: FakeWorker, new_client: NewClient
) -> None:
    before_us = redis_client.time()[0] * 1_000_000 - 20_000_000
    redis_client.zadd("windrow:minilm:workers", {"worker@test": before_us})
    assert new_client(redis_server).predict().status_code == 202  # its worker may come back
    report_load_failure(redis_client, "minilm", "worker@test", "no safetensors")
    assert "no safetensors" in assert_problem(new_client(redis_server).predict(), 503, "no_worker")


def test_metrics_count_finished_and_waiting_requests(redis_server: str, new_client: NewClient) -> None:
    def answer(call: dict[str, object]) -> Outcome:
        return Failed(ModelFailed("no")) if call["input"] == "bad" else Done(1)

    with FakeWorker(redis_server, "minilm", answer) as worker:
        heartbeat = Heartbeat(wait_ms=2.5, device_busy_ratio=0.25, pages=96, pages_taken=30)
        worker.queue.heartbeat("worker@test", heartbeat, stale_s=60)
        client = new_client(redis_server)
        for text in ("good", "good", "bad"):
            client.predict(text, headers={"Prefer": "wait=20"})
        worker.pause()
        client.post(f"/v1/predictions/{client.predict().json['id']}/cancel")
        client.predict()
        observed = Observations()
        observed.observe_each("queue", [0.004, 0.04, 400.0])
        observed.observe("batch_size", 3)
        observed.count_batch("wait")
        observed.count_tokens("prompt", 90)
        worker.queue.observe(observed.take_out())
        lines = client.get("/metrics").text.splitlines()
    assert 'windrow_requests_total{model="minilm",status="succeeded"} 2.0' in lines
    assert 'windrow_requests_total{model="minilm",status="failed"} 1.0' in lines
    assert 'windrow_requests_total{model="minilm",status="canceled"} 1.0' in lines
    assert 'windrow_requests_total{model="minilm",status="expired"} 0.0' in lines
    assert 'windrow_requests_waiting{model="minilm"} 1.0' in lines
    assert 'windrow_requests_running{model="minilm"} 0.0' in lines
    assert 'windrow_rejections_total{model="minilm",reason="depth"} 0.0' in lines
    assert 'windrow_redeliveries_total{model="minilm"} 0.0' in lines
    assert 'windrow_window_seconds{model="minilm",worker="worker@test"} 0.0025' in lines
    assert 'windrow_device_busy_ratio{model="minilm",worker="worker@test"} 0.25' in lines
    assert 'windrow_cache_pages{model="minilm",state="taken",worker="worker@test"} 30.0' in lines
    assert 'windrow_cache_pages{model="minilm",state="available",worker="worker@test"} 66.0' in lines
    assert 'windrow_dead_letters_total{model="minilm"} 0.0' in lines
    assert 'windrow_queue_seconds_bucket{le="0.005",model="minilm"} 1.0' in lines
    assert 'windrow_queue_seconds_bucket{le="300.0",model="minilm"} 2.0' in lines
    assert 'windrow_queue_seconds_bucket{le="+Inf",model="minilm"} 3.0' in lines
    assert 'windrow_queue_seconds_sum{model="minilm"} 400.044' in lines
    assert 'windrow_batch_size_bucket{le="2.0",model="minilm"} 0.0' in lines
    assert 'windrow_batch_size_bucket{le="4.0",model="minilm"} 1.0' in lines
    assert 'windrow_batches_total{closed_by="wait",model="minilm"} 1.0' in lines
    assert 'windrow_tokens_total{kind="prompt",model="minilm"} 90.0' in lines
    # Metrics of generation have no samples for this model.
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == {
        *(f"windrow_requests_{which}" for which in ("total", "waiting", "running")),
        *(
            f"windrow_{what}_total"
            for what in ("rejections", "redeliveries", "dead_letters", "batches", "tokens", "preemptions")
        ),
        *(f"windrow_{what}_seconds" for what in ("queue", "batch_wait", "compute", "request", "window")),
        *(f"windrow_{what}_seconds" for what in ("time_to_first_token", "inter_token")),
        *(f"windrow_{what}" for what in ("batch_size", "batch_tokens", "padding_ratio")),
        "windrow_device_busy_ratio",
        "windrow_cache_pages",
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_route"),
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("GET", "/v1//predictions/x", 404, "unknown_route"),
        ("GET", "/healthz/", 404, "unknown_route"),
        ("GET", "/v1/predictions/<script>/x", 404, "unknown_route"),
        ("GET", "/v1/predictions", 405, "method_not_allowed"),
        ("DELETE", "/v1/predictions/x", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/predictions", 405, "method_not_allowed"),
        ("TRACE", "/healthz", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
    ],
)
def test_an_unknown_route_or_method_is_a_problem(
    redis_server: str, method: str, path: str, status: int, code: str
) -> None:
    response = create_app(make_settings(redis_server)).test_client().open(path, method=method)
    assert_problem(response, status, code)
    assert ("Allow" in response.headers) == (status == 405)
