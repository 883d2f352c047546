"""Stop, suspend, hang and kill real ``celery worker`` processes that serve a stub model."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery
from redis import Redis

from tests.support.api_fixtures import make_settings
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess, until
from windrow.api import create_app
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import Prediction, RedisQueue, Submission
from windrow.scheduler.queue.load_failures import report_load_failure
from windrow.worker import health
from windrow.worker.process.stopping import DUPLICATE_SIGNAL_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STALL_S = 5
CONFIG = f"""
lease_s = 2.0
stall_s = {STALL_S}
[models.one]
task = "embed"
source = "stub"
max_batch_size = 4
[models.two]
task = "embed"
source = "stub"
max_batch_size = 32
max_wait_ms = "auto"
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the stub model logs its batches."""
    path = tmp_path / "journal"
    path.touch()
    monkeypatch.setenv("STUB_JOURNAL", str(path))
    return path


@pytest.fixture
def worker(redis: RedisServer, journal: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker with one pool process."""
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    with WorkerProcess(redis.url, config, ("one", "two"), app="tests.support.stub_worker") as process:
        yield process


@pytest.fixture
def queues(redis: RedisServer) -> Iterator[dict[str, RedisQueue]]:
    with Redis.from_url(redis.url) as client:
        yield {model: RedisQueue(client, model) for model in ("one", "two")}


def submit(queue: RedisQueue, *names: str, **instructions: object) -> list[str]:
    """Queue one request per name, with the name as its id; ``instructions`` tell the stub model what to do."""
    for name in names:
        value = {"name": name, "do": "answer"} | instructions
        payload = orjson.dumps({"model": queue.model, "input": value, "parameters": {}})
        queue.submit([Submission(name, payload)], flow="test:normal", weight=1.0, max_depth=1000, max_bytes=1 << 24)
    return list(names)


def look_up(queue: RedisQueue, names: list[str]) -> list[Prediction]:
    """Return the predictions of these names; fail if one does not exist."""
    predictions = [queue.lookup(name) for name in names]
    assert None not in predictions
    return [prediction for prediction in predictions if prediction is not None]


def wait_until_finished(queue: RedisQueue, names: list[str], limit_s: float = 60.0) -> list[Prediction]:
    """Wait until all requests have finished; return their predictions."""
    until(f"{names} finish", lambda: all(prediction.is_ended for prediction in look_up(queue, names)), limit_s)
    return look_up(queue, names)


def attempts_counted(redis: RedisServer, model: str) -> dict[bytes, bytes]:
    """Return the attempts that the queue has counted for unfinished requests."""
    with redis.client() as client:
        return client.hgetall(f"windrow:{model}:attempts")


def batches(journal: Path) -> list[list[str]]:
    """Return the names of the requests in each batch that was started."""
    return [line.split() for line in journal.read_text().splitlines()]


def start_slow_batch(queue: RedisQueue, journal: Path, s: float) -> tuple[list[str], list[str]]:
    """Start a batch that sleeps for ``s`` seconds, then queue more requests than fit; return the names of both."""
    slow = submit(queue, "slow", do="sleep", s=s)
    until("the batch runs", lambda: batches(journal))
    rest = submit(queue, *[f"rest-{number}" for number in range(9)])
    until("more requests are claimed", lambda: queue.depth().running > 1)
    return slow, rest


def test_sigterm_finishes_the_running_batch_and_releases_the_other_requests_without_an_attempt(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_batch(queues["one"], journal, s=2)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0, worker.log
    assert [prediction.status for prediction in look_up(queues["one"], slow)] == ["succeeded"]
    assert {prediction.status for prediction in look_up(queues["one"], rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}
    assert batches(journal) == [slow]


def test_sigterm_to_the_process_group_has_the_same_effect(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_batch(queues["one"], journal, s=2)
    os.killpg(worker.process.pid, signal.SIGTERM)
    worker.process.send_signal(signal.SIGTERM)  # a supervisor may signal the parent as well as the group
    assert worker.process.wait(30) == 0, worker.log
    assert [prediction.status for prediction in look_up(queues["one"], slow)] == ["succeeded"]
    assert {prediction.status for prediction in look_up(queues["one"], rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)]
)
def test_a_second_signal_or_sigquit_also_releases_the_running_batch(
    redis: RedisServer,
    worker: WorkerProcess,
    queues: dict[str, RedisQueue],
    journal: Path,
    signals: tuple[signal.Signals, ...],
) -> None:
    slow, rest = start_slow_batch(queues["one"], journal, s=600)
    for number in signals:
        worker.process.send_signal(number)
        time.sleep(2 * DUPLICATE_SIGNAL_S)
    assert worker.process.wait(30) == 0, worker.log
    assert {prediction.status for prediction in look_up(queues["one"], slow + rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}


def test_sigquit_to_the_process_group_has_the_same_effect(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_batch(queues["one"], journal, s=600)
    os.killpg(worker.process.pid, signal.SIGQUIT)
    assert worker.process.wait(30) == 0, worker.log
    assert {prediction.status for prediction in look_up(queues["one"], slow + rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}


def test_a_worker_stops_while_redis_is_down(redis: RedisServer, worker: WorkerProcess) -> None:
    redis.kill()
    until("the worker notices that Redis is down", lambda: "Redis failed" in worker.log)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(45) == 0, worker.log


def test_a_pool_process_that_is_killed_while_redis_is_down_is_replaced(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue]
) -> None:
    redis.kill()
    until("the worker notices that Redis is down", lambda: "Redis failed" in worker.log)
    worker.pool()[0].kill()
    redis.start()
    until("the worker serves again", lambda: queues["one"].workers(within_s=3))
    assert wait_until_finished(queues["one"], submit(queues["one"], "after"))[0].status == "succeeded"


def test_a_suspended_pool_process_is_replaced_and_its_requests_finish(
    worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    (victim,) = worker.pool()
    names = submit(queues["one"], "asleep", do="sleep", s=1)
    until("the batch runs", lambda: batches(journal))
    victim.suspend()
    assert wait_until_finished(queues["one"], names)[0].status == "succeeded"
    assert "has made no progress" in worker.log
    assert victim.pid not in [process.pid for process in worker.pool()]


def test_a_suspended_pool_process_does_not_delay_a_second_sigterm(worker: WorkerProcess) -> None:
    worker.pool()[0].suspend()
    for _ in range(2):
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(2 * DUPLICATE_SIGNAL_S)
    assert worker.process.wait(30) == 0, worker.log


def test_a_hung_forward_pass_is_reported_and_its_process_is_replaced(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue]
) -> None:
    settings = make_settings(redis.url, stall_s=STALL_S, models={"one": {"task": "embed", "source": "stub"}})
    client = create_app(settings)
    readyz = client.test_client()
    until("the API is ready", lambda: readyz.get("/readyz").status_code == 200)
    (victim,) = worker.pool()
    names = submit(queues["one"], "hung", do="sleep", s=600)
    until("the API is not ready", lambda: readyz.get("/readyz").status_code == 503)
    detail = readyz.get("/readyz").json["detail"]  # type: ignore[index]
    assert "one" in detail
    assert "stalled" in detail
    assert health.troubles_of(settings, f"test@{socket.gethostname()}")
    queues["one"].cancel(*names)  # otherwise the request would hang the next process too
    until("the process is replaced", lambda: victim.pid not in [process.pid for process in worker.pool()])
    assert "has been running one batch" in worker.log
    until("the API is ready again", lambda: readyz.get("/readyz").status_code == 200)
    assert health.troubles_of(settings, f"test@{socket.gethostname()}") == []
    assert health.troubles_of(settings, "test@elsewhere") != []
    assert wait_until_finished(queues["one"], submit(queues["one"], "after"))[0].status == "succeeded"
    client.extensions["windrow"].waiters.close()


def test_a_forward_pass_that_blocks_the_interpreter_past_its_lease_stores_no_result(
    worker: WorkerProcess, queues: dict[str, RedisQueue], redis: RedisServer, journal: Path
) -> None:
    (original,) = worker.pool()
    names = submit(queues["one"], "held", do="hold", s=4)
    until("the batch runs", lambda: batches(journal))
    until("the lease expires", lambda: queues["one"].reap())
    queues["one"].cancel(*names)  # otherwise this worker would claim and run it again
    assert [prediction.status for prediction in look_up(queues["one"], names)] == ["canceled"]
    assert wait_until_finished(queues["one"], submit(queues["one"], "after"))[0].status == "succeeded"
    assert [process.pid for process in worker.pool()] == [original.pid]
    assert [prediction.status for prediction in look_up(queues["one"], names)] == ["canceled"]
    assert queues["one"].depth().counts["late"] == 1


def test_one_poison_request_in_a_batch_of_32_does_not_fail_the_other_31(
    worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    good = [f"good-{number}" for number in range(31)]
    values = [{"name": name, "do": "answer"} for name in good]
    values.insert(16, {"name": "killer", "do": "die"})
    other = submit(queues["one"], *[f"other-{number}" for number in range(20)])
    queues["two"].submit(
        [Submission(value["name"], orjson.dumps({"model": "two", "input": value})) for value in values],
        flow="test:normal", weight=1.0, max_depth=1000, max_bytes=1 << 24,
    )  # fmt: skip
    assert {prediction.status for prediction in wait_until_finished(queues["two"], good)} == {"succeeded"}
    (killer,) = wait_until_finished(queues["two"], ["killer"])
    assert killer.error is not None
    assert killer.error["code"] == "attempts_exhausted"
    assert {prediction.status for prediction in wait_until_finished(queues["one"], other)} == {"succeeded"}
    batches_of_two = [line for line in batches(journal) if not set(line) <= set(other)]
    assert [len(line) for line in batches_of_two] == [32, 32] + [1] * 32


def test_the_parent_answers_remote_control_and_drains_while_a_batch_runs(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_batch(queues["one"], journal, s=4)
    app = Celery(broker=redis.url, backend=redis.url)
    node = f"test@{socket.gethostname()}"

    def ask(command: str) -> Any:
        answers = app.control.broadcast(command, reply=True, timeout=10, limit=1, destination=[node])
        return answers[0][node]

    try:
        until("the claimed requests are reported", lambda: ask("inflight")["slots"]["0"]["held"] >= len(slow))
        busy = ask("inflight")["slots"]["0"]
        assert (busy["pid"], busy["loaded"]) == (worker.pool()[0].pid, True)
        with connect(redis.url) as client:
            report_load_failure(client, "two", f"{node}/1", "no weights")
        models = ask("models")
        assert models["one"]["0"]["device"] == "cpu"
        assert models["two"]["1"] == {"failed": "no weights"}
        batching = ask("batching")
        assert (batching["one"]["max_batch_size"], batching["one"]["wait_ms"]) == (4, {"0": 5.0})
        assert (batching["two"]["max_wait_ms"], batching["two"]["wait_ms"]) == ("auto", {"0": 5.0})
        assert "ok" in ask("drain")
        assert [prediction.status for prediction in look_up(queues["one"], slow)] == ["processing"]
        until("the claimed requests finish", lambda: ask("inflight")["slots"]["0"]["held"] == 0)
        waiting = [prediction for prediction in look_up(queues["one"], rest) if not prediction.is_ended]
        assert {prediction.status for prediction in waiting} == {"queued"}
        assert waiting
        assert "ok" in ask("resume")
        wait_until_finished(queues["one"], rest)
    finally:
        app.close()


def test_remote_control_shuts_down_an_idle_worker(redis: RedisServer, worker: WorkerProcess) -> None:
    app = Celery(broker=redis.url, backend=redis.url)
    app.control.shutdown()
    app.close()
    assert worker.process.wait(60) == 0, worker.log


def test_pool_processes_exit_when_their_parent_is_killed(worker: WorkerProcess) -> None:
    pool = worker.pool()
    assert pool
    worker.process.kill()
    until("the pool processes exit", lambda: not [process for process in pool if process.is_running()], limit_s=30)


def test_remote_control_shuts_down_a_worker_that_runs_a_slow_batch(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_batch(queues["one"], journal, s=2)
    app = Celery(broker=redis.url, backend=redis.url)
    app.control.shutdown()
    app.close()
    assert worker.process.wait(30) == 0, worker.log
    assert [prediction.status for prediction in look_up(queues["one"], slow)] == ["succeeded"]
    assert {prediction.status for prediction in look_up(queues["one"], rest)} == {"queued"}
