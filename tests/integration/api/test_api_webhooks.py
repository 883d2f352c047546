"""``webhook`` in the body of a submit: valid ones are called once the request has finished, others are refused."""

from base64 import b64encode
from hashlib import sha256

import pytest
from redis import Redis

from tests.support.api_client import GOOD, ApiClient, assert_problem
from tests.support.api_fixtures import NewClient
from tests.support.fake_worker import FakeWorker
from windrow.scheduler.queue.webhooks import WebhookQueue

pytestmark = pytest.mark.integration

SECRET = "whsec_" + b64encode(b"s" * 32).decode()
URL = "https://receiver.example/hook"
BATCH = {"model": "minilm", "inputs": ["a", "b"]}
WAIT = {"Prefer": "wait=20"}


@pytest.fixture
def hooked(redis_server: str, worker: FakeWorker, new_client: NewClient) -> ApiClient:
    """A client of an application with a webhook secret."""
    return new_client(redis_server, webhook_secret=SECRET)


def due(redis: Redis) -> dict[str, str]:
    return {delivery.id: delivery.url for delivery in WebhookQueue(redis, "minilm").claim(100, visibility_s=60)}


def test_a_finished_prediction_has_a_due_delivery(hooked: ApiClient, redis_client: Redis) -> None:
    ended = hooked.predict(webhook=URL, headers=WAIT).json
    assert ended["status"] == "succeeded"
    assert due(redis_client) == {ended["id"]: URL}


def test_every_prediction_of_a_batch_has_its_own_delivery(
    hooked: ApiClient, redis_client: Redis, worker: FakeWorker
) -> None:
    worker.pause()
    batch = hooked.post("/v1/predictions:batch", json=BATCH | {"webhook": URL}).json
    ids = [prediction["id"] for prediction in batch["predictions"]]
    for id in ids:
        hooked.post(f"/v1/predictions/{id}/cancel")
    assert due(redis_client) == dict.fromkeys(ids, URL)


def test_a_prediction_without_a_webhook_has_no_delivery(hooked: ApiClient, redis_client: Redis) -> None:
    hooked.predict(headers=WAIT)
    hooked.predict(webhook=None, headers=WAIT)
    assert due(redis_client) == {}


def test_a_repeated_submit_with_another_webhook_is_refused(hooked: ApiClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = hooked.predict(webhook=URL, headers=headers).json
    assert hooked.predict(webhook=URL, headers=headers).json["id"] == first["id"]
    again = hooked.predict(webhook=URL + "/other", headers=headers)
    assert_problem(again, 422, "idempotency_conflict")


@pytest.mark.parametrize("route", ["/v1/predictions", "/v1/predictions:batch"])
@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://receiver.example/",
            "https://user:hunter2@receiver.example/",
            "https://" + "a" * 2000,
            "https://",
            "",
        ),
        *("https://127.0.0.1/", "https://10.0.0.1/", "https://169.254.169.254/", "https://[::1]/", "https://0.0.0.0/"),
        *("https://0x7f.1/", "https://2130706433/", "https://localhost/", "https://redis:6379/"),
    ],
)
def test_an_invalid_webhook_is_422_and_queues_nothing(
    hooked: ApiClient, redis_client: Redis, route: str, url: str
) -> None:
    body = (BATCH if "batch" in route else GOOD) | {"webhook": url}
    detail = assert_problem(hooked.post(route, json=body), 422, "invalid_input")
    assert detail.startswith("webhook: ")
    assert "hunter2" not in detail
    assert not redis_client.exists("windrow:minilm:webhook_urls")


def test_private_receivers_are_accepted_if_their_network_is_configured(
    redis_server: str, worker: FakeWorker, new_client: NewClient
) -> None:
    client = new_client(redis_server, webhook_secret=SECRET, webhook_networks=["10.0.0.0/8"])
    assert client.predict(webhook="https://10.1.2.3/hook").status_code == 202
    assert_problem(client.predict(webhook="https://192.168.0.1/hook"), 422, "invalid_input")


def test_a_webhook_of_a_tenant_without_a_secret_is_refused(
    redis_server: str, worker: FakeWorker, new_client: NewClient
) -> None:
    tenants = {
        "mute": {"keys": ["sha256:" + sha256(b"mute").hexdigest()]},
        "loud": {"keys": ["sha256:" + sha256(b"loud").hexdigest()], "webhook_secret": SECRET},
    }
    client = new_client(redis_server, tenants=tenants, webhook_secret=SECRET)
    refused = client.predict(webhook=URL, headers={"Authorization": "Bearer mute"})
    assert "no webhook_secret" in assert_problem(refused, 422, "invalid_input")
    assert client.predict(webhook=URL, headers={"Authorization": "Bearer loud"}).status_code == 202
