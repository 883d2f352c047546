"""``celery -A worker control set_batching|reload_model``, sent to a real worker that serves a stub model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery
from redis import Redis

from tests.support.redis_server import RedisServer
from tests.support.worker_process import ROOT, WorkerProcess, until
from windrow.scheduler.queue import RedisQueue, Submission

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
NODE = f"test@{socket.gethostname()}"
CONFIG = """
lease_s = 2.0
[models.one]
task = "embed"
source = "stub"
max_batch_size = 4
[models.llama]
task = "generate"
source = "stub"
"""
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="module")
def worker(redis: RedisServer, folder: Path) -> Iterator[WorkerProcess]:
    config, journal = folder / "windrow.toml", folder / "journal"
    config.write_text(CONFIG)
    journal.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUB_JOURNAL", str(journal))
        with WorkerProcess(redis.url, config, ("one",), app="tests.support.stub_worker") as process:
            yield process


@pytest.fixture
def ask(redis: RedisServer, worker: WorkerProcess) -> Iterator[Ask]:
    app = Celery(broker=redis.url, backend=redis.url)

    def ask_node(command: str, **arguments: object) -> Any:
        answers = app.control.broadcast(command, arguments, reply=True, timeout=10, limit=1, destination=[NODE])
        return answers[0][NODE]

    yield ask_node
    app.close()


@pytest.fixture
def queue(redis: RedisServer) -> Iterator[RedisQueue]:
    with Redis.from_url(redis.url) as client:
        yield RedisQueue(client, "one")


def sizes_of(queue: RedisQueue, prefix: str, count: int) -> set[int]:
    """Submit ``count`` requests at once; return the sizes of the batches they ran in."""
    ids = [f"{prefix}{number}" for number in range(count)]
    payloads = [orjson.dumps({"model": "one", "input": {"do": "answer", "name": id}}) for id in ids]
    queue.submit(
        [Submission(id, payload) for id, payload in zip(ids, payloads, strict=True)],
        flow="t:normal", weight=1.0, max_depth=1000, max_bytes=1 << 24,
    )  # fmt: skip
    predictions: list[Any] = []

    def all_finished() -> bool:
        predictions[:] = [queue.lookup(id) for id in ids]
        return all(prediction is not None and prediction.is_ended for prediction in predictions)

    until("all requests finish", all_finished)
    assert {prediction.status for prediction in predictions} == {"succeeded"}
    return {prediction.metrics["batch_size"] for prediction in predictions}


def run_celery(url: str, folder: Path, *words: str) -> str:
    environment = os.environ | {"CELERY_BROKER_URL": url, "WINDROW_CONFIG": str(folder / "windrow.toml")}
    command = [sys.executable, "-m", "celery", "-A", "worker", "control", "-d", NODE, "-t", "10", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_set_batching_changes_batch_sizes_and_also_applies_to_a_replacement_pool_process(
    redis: RedisServer, worker: WorkerProcess, folder: Path, queue: RedisQueue, ask: Ask
) -> None:
    assert max(sizes_of(queue, "before", 40)) <= 4
    assert "one: max_batch_size 16, max_wait_ms 2.5" in run_celery(
        redis.url, folder, "set_batching", "one", "16", "2.5"
    )
    shown = ask("batching")["one"]
    assert (shown["max_batch_size"], shown["max_wait_ms"]) == (16, 2.5)
    until("the new batch limits apply", lambda: 4 < max(sizes_of(queue, os.urandom(4).hex(), 40)) <= 16)
    (victim,) = worker.pool()
    victim.kill()
    until("another pool process serves", lambda: [process.pid for process in worker.pool()] not in ([], [victim.pid]))
    until("the new batch limits apply", lambda: 4 < max(sizes_of(queue, os.urandom(4).hex(), 40)) <= 16)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"model": "other", "max_batch_size": 4, "max_wait_ms": 5}, "unknown model 'other'; the models are one, llama"),
        ({"model": "one", "max_batch_size": 0, "max_wait_ms": 5}, "max_batch_size: "),
        ({"model": "one"}, "max_batch_size: "),
        ({"model": "llama", "max_batch_size": 4, "max_wait_ms": 5}, "are fixed when it loads"),
        ({}, "unknown model None"),
    ],
)
def test_invalid_batch_limits_are_refused_with_the_reason(ask: Ask, arguments: dict[str, object], reason: str) -> None:
    before = ask("batching")["one"]
    assert reason in ask("set_batching", **arguments)["error"]
    assert ask("batching")["one"] == before


def test_a_model_is_reloaded_and_the_old_one_is_kept_if_loading_fails(
    redis: RedisServer, folder: Path, queue: RedisQueue, ask: Ask
) -> None:
    def reload_note() -> str:
        return ask("models")["one"]["0"]["reload_note"] or ""

    assert "one is loading" in run_celery(redis.url, folder, "reload_model", "one")
    until("the model is reloaded", lambda: "reloaded at" in reload_note())
    (folder / "broken").touch()
    assert "ok" in ask("reload_model", model="one")
    until("the reload fails", lambda: "stays in service as it was: its files are broken" in reload_note())
    assert sizes_of(queue, "kept", 3)
    (folder / "broken").unlink()
    assert "unknown model 'other'" in ask("reload_model", model="other")["error"]
