"""Webhook deliveries from a real Redis, over TLS, to a receiver on the loopback interface."""

from __future__ import annotations

import hmac
import logging
import os
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from tests.support.acl import acl_server, role_url
from tests.support.queue_calls import PLENTY, claim, finish, request
from tests.support.webhook_receiver import CA_FILE, NAME, WebhookReceiver
from tests.support.worker_process import ROOT, until
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS
from windrow.scheduler.core.addresses import Address
from windrow.scheduler.core.webhooks import MAX_TRIES, Endpoint
from windrow.scheduler.queue import RedisQueue, result_key
from windrow.worker.webhooks import sender as webhooks
from windrow.worker.webhooks.pinned_post import post, tls_context
from windrow.worker.webhooks.sender import WebhookSender

pytestmark = pytest.mark.integration

MODEL = "minilm"
#: The hash of an API key that no client has.
KEY = "sha256:" + "0" * 64
SECRET = "whsec_" + b64encode(b"windrow test secret, 32 bytes..!").decode()
HOME = ip_address("127.0.0.1")


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trust the test certificate authority only, as if an operator had configured it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CA_FILE))
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def queue(redis_client: Redis) -> RedisQueue:
    return RedisQueue(redis_client, MODEL, result_ttl_s=900)


def settings(**overrides: Any) -> Settings:
    values = {"models": DEFAULT_MODELS, "webhook_secret": SECRET, "webhook_networks": ["127.0.0.0/8"]}
    return Settings.model_validate(values | overrides)


def resolve_home(host: str, port: int) -> list[Address]:
    return [HOME]


@contextmanager
def running_sender(redis: Redis, **options: Any) -> Iterator[WebhookSender]:
    """A webhook sender that resolves every host to the receiver's address."""
    sender = WebhookSender(options.pop("settings", settings()), redis, **{"resolve": resolve_home} | options)
    try:
        yield sender
    finally:
        sender.close()


def finish_requests(queue: RedisQueue, url: str, *ids: str, tenant: str = "default") -> None:
    """Submit requests whose webhook is ``url``, and finish them."""
    submissions = [replace(request(id), payload=b'{"model":"minilm","input":"hay"}', webhook=url) for id in ids]
    queue.submit(submissions, flow=f"{tenant}:normal", weight=4.0, max_depth=PLENTY, max_bytes=PLENTY)
    assert all(finish(queue, claim(queue)))


def webhook_keys(redis: Redis) -> set[bytes]:
    return {key for key in redis.keys("*") if b"webhook" in key}


def send(redis: Redis, **options: Any) -> int:
    """Send the due webhooks, wait until each is delivered or postponed, and return their count."""
    with running_sender(redis, **options) as sender:
        return sender.send_due()


def make_due(redis: Redis) -> None:
    """Make all postponed webhooks due now."""
    key = f"windrow:{MODEL}:webhooks"
    redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 0), xx=True)


def tries(redis: Redis, id: str) -> int | None:
    count = redis.hget(f"windrow:{MODEL}:webhook_tries", id)
    return None if count is None else int(count)


def test_a_finished_request_is_posted_once_and_leaves_no_keys_in_redis(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url("/200?for=a"), "a")
    assert send(redis_client) == 1
    (message,) = receiver.messages
    assert message.path == "/200?for=a"
    body = message.json()
    assert (body["id"], body["status"], body["input"], body["output"]) == ("a", "succeeded", "hay", {"label": "good"})
    assert body["urls"]["get"] == "/v1/predictions/a"
    assert webhook_keys(redis_client) == set()


def test_the_message_is_signed_as_standard_webhooks_specifies(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    send(redis_client)
    (message,) = receiver.messages
    headers = message.headers
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("windrow-webhook/")
    assert headers["host"].startswith(f"{NAME}:")
    assert headers["webhook-id"] == "a"
    assert abs(int(headers["webhook-timestamp"]) - redis_client.time()[0]) < 60
    signed = f"a.{headers['webhook-timestamp']}.".encode() + message.body
    expected = hmac.new(b64decode(SECRET.removeprefix("whsec_")), signed, sha256).digest()
    assert headers["webhook-signature"] == "v1," + b64encode(expected).decode()


def test_urls_in_the_message_start_with_the_public_url(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    send(redis_client, settings=settings(public_url="https://api.example.org/windrow/"))
    assert receiver.messages[0].json()["urls"]["get"] == "https://api.example.org/windrow/v1/predictions/a"


def test_messages_are_signed_with_the_secret_of_the_tenant_and_not_sent_without_one(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    other = "whsec_" + b64encode(b"b" * 32).decode()
    tenants = {"acme": {"webhook_secret": other, "keys": [KEY]}, "unsigned": {}}
    finish_requests(queue, receiver.url(), "a", tenant="acme")
    finish_requests(queue, receiver.url(), "m", tenant="unsigned")
    assert send(redis_client, settings=settings(tenants=tenants)) == 2
    (message,) = receiver.messages
    signed = f"a.{message.headers['webhook-timestamp']}.".encode() + message.body
    expected = b64encode(hmac.new(b"b" * 32, signed, sha256).digest()).decode()
    assert message.headers["webhook-signature"] == f"v1,{expected}"
    assert webhook_keys(redis_client) == set()


def test_a_failed_delivery_is_retried_later_with_the_same_id(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    receiver.next = [(500, {})]
    assert send(redis_client) == 1
    assert tries(redis_client, "a") == 1
    assert send(redis_client) == 0
    make_due(redis_client)
    assert send(redis_client) == 1
    assert [message.headers["webhook-id"] for message in receiver.messages] == ["a", "a"]
    assert webhook_keys(redis_client) == set()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, status: int
) -> None:
    finish_requests(queue, receiver.url("/first"), "a")
    receiver.next = [(status, {"Location": receiver.url("/200")})]
    send(redis_client)
    assert [message.path for message in receiver.messages] == ["/first"]
    assert tries(redis_client, "a") == 1


def test_status_410_ends_the_retries(redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver) -> None:
    finish_requests(queue, receiver.url("/410"), "a")
    send(redis_client)
    assert webhook_keys(redis_client) == set()


def test_a_delivery_is_dropped_after_the_maximum_number_of_tries(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url("/500"), "a")
    for _ in range(MAX_TRIES):
        make_due(redis_client)
        assert send(redis_client) == 1
    assert len(receiver.messages) == MAX_TRIES
    assert webhook_keys(redis_client) == set()


def test_the_retry_after_header_delays_the_next_try(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    receiver.next = [(503, {"Retry-After": "600"})]
    send(redis_client)
    (_, due_us), *_ = redis_client.zrange(f"windrow:{MODEL}:webhooks", 0, -1, withscores=True)
    assert due_us / 1e6 - redis_client.time()[0] > 300


def test_a_webhook_whose_result_has_expired_is_dropped(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    redis_client.delete(result_key("a"))
    assert send(redis_client) == 1
    assert receiver.messages == []
    assert webhook_keys(redis_client) == set()


def test_a_receiver_with_an_untrusted_certificate_gets_no_message(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    tls_context.cache_clear()
    finish_requests(queue, receiver.url(), "a")
    send(redis_client)
    assert receiver.messages == []
    assert tries(redis_client, "a") == 1


def test_a_receiver_whose_certificate_names_another_host_gets_no_message(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(host="other.test"), "a")
    send(redis_client)
    assert receiver.messages == []
    assert tries(redis_client, "a") == 1


@pytest.mark.parametrize("inner", ["10.0.0.1", "169.254.169.254", "192.168.0.1", "::1", "::ffff:10.0.0.1", "fe80::1"])
def test_a_host_with_any_address_that_is_not_public_is_not_connected_to(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, inner: str
) -> None:
    finish_requests(queue, receiver.url(), "a")
    send(redis_client, resolve=lambda host, port: [HOME, ip_address(inner)])
    assert receiver.messages == []
    assert tries(redis_client, "a") == 1


def test_loopback_is_not_connected_to_unless_webhook_networks_allows_it(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    send(redis_client, settings=settings(webhook_networks=[]))
    assert receiver.messages == []


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "0177.0.0.1", "127.1"])
def test_a_queued_webhook_with_an_obfuscated_address_is_dropped(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, host: str
) -> None:
    finish_requests(queue, receiver.url(host=host), "a")
    send(redis_client)
    assert receiver.messages == []
    assert webhook_keys(redis_client) == set()


def test_a_host_is_resolved_once_so_that_dns_rebinding_has_no_effect(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    answers = [[HOME], [ip_address("10.0.0.1")]]
    finish_requests(queue, receiver.url(), "a")
    send(redis_client, resolve=lambda host, port: answers.pop(0))
    assert len(receiver.messages) == 1
    assert len(answers) == 1


def test_the_next_address_is_tried_if_the_first_refuses_the_connection(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    finish_requests(queue, receiver.url(), "a")
    send(redis_client, resolve=lambda host, port: [ip_address("127.0.0.2"), HOME])
    assert len(receiver.messages) == 1


def test_proxies_from_the_environment_are_not_used(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    finish_requests(queue, receiver.url(), "a")
    send(redis_client)
    assert len(receiver.messages) == 1


@pytest.mark.parametrize("path", ["/drip", "/hang"])
def test_a_receiver_that_does_not_finish_its_response_times_out(receiver: WebhookReceiver, path: str) -> None:
    endpoint = Endpoint(NAME, int(receiver.url("").rpartition(":")[2]), path)
    with pytest.raises(TimeoutError):
        post(endpoint, [HOME], {}, b"{}", timeout_s=0.5)


def test_an_endless_response_body_does_not_hide_the_status(receiver: WebhookReceiver) -> None:
    endpoint = Endpoint(NAME, int(receiver.url("").rpartition(":")[2]), "/flood")
    assert post(endpoint, [HOME], {}, b"{}", timeout_s=30).status == 200


def test_slow_receivers_of_one_tenant_do_not_block_other_tenants(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "THREADS", 4)
    monkeypatch.setattr(webhooks, "THREADS_PER_TENANT", 2)
    tenants = {
        name: {"webhook_secret": SECRET, "keys": [f"sha256:{number:064}"]}
        for number, name in enumerate(("slow", "quick"))
    }
    finish_requests(queue, receiver.url("/hang"), *(f"slow-{number}" for number in range(20)), tenant="slow")
    finish_requests(queue, receiver.url("/200"), "quick", tenant="quick")
    with running_sender(redis_client, settings=settings(tenants=tenants)) as sender:
        sender.hint()
        until("the quick webhook arrives", lambda: "quick" in [m.headers["webhook-id"] for m in receiver.messages])
        assert [message.path for message in receiver.messages].count("/hang") == 2
        receiver.release.set()


def test_logs_contain_neither_the_query_of_the_url_nor_the_payload(
    redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in ("/200?token=abc", "/500?token=abc", "/410?token=abc"):
        finish_requests(queue, receiver.url(path), f"id{path[1:4]}")
    finish_requests(queue, receiver.url("/200?token=abc", host="0x7f.1"), "refused")
    send(redis_client)
    send(redis_client, resolve=lambda host, port: [ip_address("10.0.0.1")])
    log = caplog.text
    assert NAME in log
    assert "answered 500" in log
    assert "token" not in log
    assert "hay" not in log


def test_the_acl_role_of_housekeeping_may_send_and_postpone_webhooks(receiver: WebhookReceiver, tmp_path: Path) -> None:
    with acl_server(tmp_path) as server, server.client() as admin:
        finish_requests(RedisQueue(admin, MODEL), receiver.url(), "a")
        receiver.next = [(500, {})]
        with Redis.from_url(role_url(server, "windrow-housekeeping")) as housekeeping:
            send(housekeeping)
            assert tries(admin, "a") == 1
            make_due(admin)
            send(housekeeping)
        assert len(receiver.messages) == 2
        assert webhook_keys(admin) == set()


KILLED = """
import sys
from redis import Redis
from windrow.scheduler.config.settings import Settings
from windrow.worker.webhooks.sender import WebhookSender
url, settings = sys.argv[1:]
sender = WebhookSender(Settings.model_validate_json(settings), Redis.from_url(url), visibility_s=1.0)
sender.send_due()
sender.close()
"""


def test_a_webhook_that_a_killed_process_was_sending_is_sent_again(
    redis_server: str, redis_client: Redis, queue: RedisQueue, receiver: WebhookReceiver
) -> None:
    networks = ["127.0.0.0/8", "::1/128"]
    finish_requests(queue, receiver.url("/hang", host="localhost"), "a")
    values = {"models": DEFAULT_MODELS, "webhook_secret": SECRET, "webhook_networks": networks}
    victim = subprocess.Popen([sys.executable, "-c", KILLED, redis_server, orjson.dumps(values).decode()], cwd=ROOT)
    until("the receiver has the message", lambda: receiver.messages)
    victim.kill()
    victim.wait()
    receiver.release.set()
    with running_sender(redis_client) as sender:
        until("the webhook is due again", sender.send_due)
    assert [message.headers["webhook-id"] for message in receiver.messages] == ["a", "a"]
    assert webhook_keys(redis_client) == set()


def test_the_housekeeping_worker_sends_webhooks_and_completes_running_deliveries_when_stopped(
    redis_server: str, redis_client: Redis, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    config = tmp_path / "windrow.toml"
    config.write_text(f'webhook_secret = "{SECRET}"\nwebhook_networks = ["127.0.0.0/8", "::1/128"]\n')
    environment = os.environ | {"CELERY_BROKER_URL": redis_server, "WINDROW_CONFIG": str(config)}
    command = [
        *(sys.executable, "-m", "celery", "-A", "worker", "worker", "-B", "-Q", "windrow.housekeeping", "-n", "hk@%h"),
        *("--concurrency", "1", "--loglevel", "INFO", "--schedule", str(tmp_path / "beat")),
    ]
    queue, log = RedisQueue(redis_client, MODEL), tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            finish_requests(queue, receiver.url(host="localhost"), "a")
            until("the first webhook arrives", lambda: receiver.messages or worker.poll() is not None)
            until("no webhook keys remain", lambda: not webhook_keys(redis_client))
            finish_requests(queue, receiver.url("/hang", host="localhost"), "b")
            until("the second webhook arrives", lambda: len(receiver.messages) == 2 or worker.poll() is not None)
            worker.terminate()
            until(
                "the worker waits for the running delivery", lambda: "waiting for 1 running webhook" in log.read_text()
            )
            receiver.release.set()
            assert worker.wait(60) == 0, log.read_text()
        finally:
            worker.kill()
            worker.wait()
    assert [message.json()["id"] for message in receiver.messages] == ["a", "b"], log.read_text()
    assert webhook_keys(redis_client) == set()
