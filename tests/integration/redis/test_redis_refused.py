"""With an eviction policy in Redis, no program starts, and the error contains the configuration line to change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.acl import acl_server
from tests.support.api_client import assert_problem
from tests.support.api_fixtures import NewClient, make_settings
from tests.support.backends import EMBEDDED, NEWER, binary_of
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer, free_port
from tests.support.worker_process import ROOT
from windrow.api import create_app
from windrow.errors import InvalidSetting
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.connection.server_check import check_server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

LINE = "maxmemory-policy noeviction"
PYTHON = sys.executable
PROGRAMS = {
    "the API": [PYTHON, "-m", "gunicorn", "-c", "python:windrow.api.gunicorn_conf", "api:create_app()"],
    "a worker": [PYTHON, "-m", "celery", "-A", "worker", "worker", "-Q", "windrow", "--concurrency", "1"],
    "housekeeping": [
        PYTHON, "-m", "celery", "-A", "worker", "worker", "-Q", "windrow.housekeeping", "--concurrency", "1",
    ],
    "windrow serve": [PYTHON, "-m", "windrow", "serve", "--folder"],
}  # fmt: skip


@pytest.fixture
def evicting() -> Iterator[RedisServer]:
    with RedisServer("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb") as server:
        yield server


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_starts_on_a_redis_that_evicts(program: str, evicting: RedisServer, tmp_path: Path) -> None:
    command = PROGRAMS[program] + ([str(tmp_path)] if PROGRAMS[program][-1] == "--folder" else [])
    environ = os.environ | {"CELERY_BROKER_URL": evicting.url, "PORT": str(free_port())}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    output = result.stdout + result.stderr
    assert result.returncode != 0, output
    assert f"'{LINE}' into redis.conf" in output
    assert f"'redis-cli CONFIG SET {LINE}'" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", [EMBEDDED, NEWER])
def test_the_configuration_line_of_the_error_is_sufficient(name: str) -> None:
    with RedisServer("--maxmemory-policy", "volatile-lru", binary=binary_of(name)) as server, server.client() as redis:
        with pytest.raises(InvalidSetting, match="volatile-lru"):
            check_server(redis)
        redis.execute_command(*f"CONFIG SET {LINE}".split())
        check_server(redis)


def test_create_app_refuses_a_redis_that_evicts(evicting: RedisServer) -> None:
    with pytest.raises(InvalidSetting, match=LINE):
        create_app(make_settings(evicting.url))


def test_a_redis_that_starts_after_the_api_is_checked_before_the_first_submit(
    evicting: RedisServer, new_client: NewClient
) -> None:
    evicting.kill()
    client = new_client(evicting.url)
    evicting.start()
    with FakeWorker(evicting.url, "minilm"), evicting.client() as redis:
        assert LINE in assert_problem(client.predict(), 503, "redis_unavailable")
        assert redis.zcard("windrow:minilm:ready") == 0
        redis.config_set("maxmemory-policy", "noeviction")
        assert client.predict(headers={"Prefer": "wait=20"}).json["status"] == "succeeded"


def test_the_error_for_a_user_who_may_not_call_info_names_the_permission(tmp_path: Path) -> None:
    with acl_server(tmp_path) as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "no-info", "on", ">pw", "+ping", "+hello")
        with (
            connect(f"redis://no-info:pw@127.0.0.1:{server.port}/0") as redis,
            pytest.raises(InvalidSetting, match=r"\+info"),
        ):
            check_server(redis)
