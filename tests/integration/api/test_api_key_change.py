"""API keys change while the server runs: HUP reads the settings again, and no client is refused meanwhile."""

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.api_server import start_api
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from tests.support.worker_process import until
from windrow.api.auth.keys import hash_key, make_key

pytestmark = pytest.mark.integration

OLD, NEW = make_key(), make_key()


def write(config: Path, *keys: str) -> None:
    config.write_text(f"[tenants.acme]\nkeys = {[hash_key(key) for key in keys]}\n")


def ask(port: int, key: str) -> int:
    return httpx.post(
        f"http://127.0.0.1:{port}/v1/predictions", json={"model": "minilm", "input": "a text"}, timeout=60,
        headers={"Authorization": f"Bearer {key}", "Prefer": "wait=30"},
    ).status_code  # fmt: skip


def test_a_key_is_changed_under_load_without_an_error(tmp_path: Path) -> None:
    config = tmp_path / "windrow.toml"
    write(config, OLD)
    statuses: list[int] = []
    stops = threading.Event()
    key = OLD
    with RedisServer() as redis, FakeWorker(redis.url, "minilm"):
        process, port = start_api(redis.url, log=tmp_path / "api.log", WINDROW_CONFIG=str(config))

        def load() -> None:
            while not stops.is_set():
                statuses.append(ask(port, key))

        clients = [threading.Thread(target=load) for _ in range(4)]
        try:
            assert ask(port, NEW) == 401
            for client in clients:
                client.start()
            write(config, OLD, NEW)
            process.send_signal(signal.SIGHUP)
            until("the new key is known", lambda: ask(port, NEW) == 200)
            # The old process knows only the old key, and may still answer some requests.
            until("the new key is known to every process", lambda: all(ask(port, NEW) == 200 for _ in range(20)))
            key = NEW
            time.sleep(0.2)
            write(config, NEW)
            process.send_signal(signal.SIGHUP)
            until("the old key is unknown", lambda: ask(port, OLD) == 401)
        finally:
            stops.set()
            for client in clients:
                client.join()
            process.terminate()
            process.wait(timeout=60)
    assert len(statuses) > 20
    assert set(statuses) <= {200, 202}  # 202 for clients that waited at a process that stopped
    assert OLD not in (tmp_path / "api.log").read_text()


def test_a_server_on_all_addresses_stops_when_its_keys_are_removed(tmp_path: Path) -> None:
    config = tmp_path / "windrow.toml"
    write(config, OLD)
    with RedisServer() as redis:
        process, port = start_api(
            redis.url, log=tmp_path / "api.log", WINDROW_CONFIG=str(config), WINDROW_HOST="0.0.0.0"
        )
        assert ask(port, NEW) == 401
        config.write_text("")
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) != 0
    assert "no API key is configured" in (tmp_path / "api.log").read_text()
