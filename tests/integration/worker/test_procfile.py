"""Start the Procfile with honcho, on a Redis with the shipped configuration."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.support.redis_server import find_redis_server, free_port
from tests.support.serving import ROOT, clean_environ, is_alive

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NODES = {"worker", "housekeeping"}
#: Time limit for a process to start, on a busy machine with two cores.
START_S = 120.0
#: Time limit for all processes to exit after TERM; idle workers have nothing to drain.
STOP_S = 30.0


def until(event: str, is_true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float) -> None:
    """Wait for ``is_true``; fail with the log if ``process`` exits or ``limit_s`` passes."""
    end_s = time.monotonic() + limit_s
    while not is_true():
        status = process.poll()
        if status is not None or time.monotonic() > end_s:
            reason = "timed out" if status is None else f"the process exited with status {status}"
            pytest.fail(f"{event}: {reason}\n{log.read_text()}")
        time.sleep(0.2)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    port, log = free_port(), tmp_path / "redis.log"
    command = [find_redis_server(), "deploy/redis.conf", "--port", str(port), "--dir", str(tmp_path)]
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as server:
        client = Redis(port=port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except RedisError:
                return False

        try:
            until("Redis answers", answers, server, log, START_S)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            client.close()
            server.terminate()


def health(port: int) -> object:
    """Return the JSON of ``/healthz``, or None if its status is not 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
            return json.load(response)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def responding_nodes(environment: dict[str, str]) -> set[str]:
    """Return which of the Procfile's nodes answer ``celery inspect ping``."""
    nodes = ",".join(f"{name}@{socket.gethostname()}" for name in NODES)
    options = ["inspect", "ping", "--json", "--timeout", "5", "-d", nodes]
    command = [sys.executable, "-m", "celery", "-A", "worker", *options]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return {name.split("@")[0] for name in json.loads(result.stdout)} if result.returncode == 0 else set()


def children_of(parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(parent.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_every_process_of_the_procfile_starts_responds_and_stops(redis_url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "honcho.log"
    environment = clean_environ(
        CELERY_BROKER_URL=redis_url,
        PORT=str(port),
        PYTHONUNBUFFERED="1",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    command = [sys.executable, "-m", "honcho", "start", "-f", str(ROOT / "Procfile"), "-d", str(ROOT), "-e", os.devnull]
    with log.open("wb") as output:
        honcho = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    started: list[psutil.Process] = []
    try:
        until("the API answers", lambda: health(port) is not None, honcho, log, START_S)
        assert isinstance(health(port), dict)
        until("the workers answer", lambda: responding_nodes(environment) == NODES, honcho, log, START_S)

        started = children_of(honcho)
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(STOP_S)
        text = log.read_text()
        assert [process for process in started if is_alive(process)] == [], text
        assert "SIGKILL" not in text, text
        assert "Traceback" not in text, text
    finally:
        for process in {*started, *children_of(honcho)}:
            if is_alive(process):
                process.kill()
        honcho.kill()
        honcho.wait()
