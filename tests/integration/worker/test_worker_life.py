"""The life of real ``celery worker`` processes with a stub for a model: stopped, suspended, hung, killed."""

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
    """Where the stub notes its passes."""
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


def submit(queue: RedisQueue, *names: str, **what: object) -> list[str]:
    """Queue one request a name, under its name; ``what`` is what the stub is to do with all of them."""
    for name in names:
        value = {"name": name, "do": "answer"} | what
        payload = orjson.dumps({"model": queue.model, "input": value, "parameters": {}})
        queue.submit([Submission(name, payload)], flow="test:normal", weight=1.0, max_depth=1000, max_bytes=1 << 24)
    return list(names)


def found(queue: RedisQueue, names: list[str]) -> list[Prediction]:
    """The predictions of those names; fail where one is not known."""
    predictions = [queue.lookup(name) for name in names]
    assert None not in predictions
    return [one for one in predictions if one is not None]


def ended(queue: RedisQueue, names: list[str], limit_s: float = 60.0) -> list[Prediction]:
    """The same, once all have ended."""
    until(f"{names} have ended", lambda: all(one.is_ended for one in found(queue, names)), limit_s)
    return found(queue, names)


def attempts_counted(redis: RedisServer, model: str) -> dict[bytes, bytes]:
    """What the queue has counted against requests that have not ended."""
    with redis.client() as client:
        return client.hgetall(f"windrow:{model}:attempts")


def passes(journal: Path) -> list[list[str]]:
    """The names in each pass that was begun."""
    return [line.split() for line in journal.read_text().splitlines()]


def start_slow_row(queue: RedisQueue, journal: Path, s: float) -> tuple[list[str], list[str]]:
    """Submit what sleeps for ``s`` seconds and then more than fits; return both once the first runs."""
    slow = submit(queue, "slow", do="sleep", s=s)
    until("it runs", lambda: passes(journal))
    rest = submit(queue, *[f"rest-{number}" for number in range(9)])
    until("a row was claimed behind it", lambda: queue.depth().running > 1)
    return slow, rest


def test_term_ends_the_row_that_runs_and_gives_the_rest_back_uncounted(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_row(queues["one"], journal, s=2)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0, worker.log
    assert [one.status for one in found(queues["one"], slow)] == ["succeeded"]
    assert {one.status for one in found(queues["one"], rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}
    assert passes(journal) == [slow]


def test_term_to_the_whole_group_is_the_same(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_row(queues["one"], journal, s=2)
    os.killpg(worker.process.pid, signal.SIGTERM)
    worker.process.send_signal(signal.SIGTERM)  # as a supervisor does beside the group
    assert worker.process.wait(30) == 0, worker.log
    assert [one.status for one in found(queues["one"], slow)] == ["succeeded"]
    assert {one.status for one in found(queues["one"], rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)]
)
def test_a_second_signal_or_quit_gives_back_what_runs_too(
    redis: RedisServer,
    worker: WorkerProcess,
    queues: dict[str, RedisQueue],
    journal: Path,
    signals: tuple[signal.Signals, ...],
) -> None:
    slow, rest = start_slow_row(queues["one"], journal, s=600)
    for number in signals:
        worker.process.send_signal(number)
        time.sleep(2 * DUPLICATE_SIGNAL_S)
    assert worker.process.wait(30) == 0, worker.log
    assert {one.status for one in found(queues["one"], slow + rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}


def test_quit_to_the_whole_group_does_the_same(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_row(queues["one"], journal, s=600)
    os.killpg(worker.process.pid, signal.SIGQUIT)
    assert worker.process.wait(30) == 0, worker.log
    assert {one.status for one in found(queues["one"], slow + rest)} == {"queued"}
    assert attempts_counted(redis, "one") == {}


def test_a_worker_stops_while_redis_is_away(redis: RedisServer, worker: WorkerProcess) -> None:
    redis.kill()
    until("it has noticed", lambda: "Redis failed" in worker.log)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(45) == 0, worker.log


def test_a_pool_process_that_is_killed_while_redis_is_away_is_replaced(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue]
) -> None:
    redis.kill()
    until("it has noticed", lambda: "Redis failed" in worker.log)
    worker.pool()[0].kill()
    redis.start()
    until("it serves again", lambda: queues["one"].workers(within_s=3))
    assert ended(queues["one"], submit(queues["one"], "after"))[0].status == "succeeded"


def test_a_suspended_pool_process_is_replaced_and_its_requests_are_answered(
    worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    (victim,) = worker.pool()
    names = submit(queues["one"], "asleep", do="sleep", s=1)
    until("it runs", lambda: passes(journal))
    victim.suspend()
    assert ended(queues["one"], names)[0].status == "succeeded"
    assert "has made no progress" in worker.log
    assert victim.pid not in [process.pid for process in worker.pool()]


def test_a_suspended_pool_process_does_not_hold_up_a_second_term(worker: WorkerProcess) -> None:
    worker.pool()[0].suspend()
    for _ in range(2):
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(2 * DUPLICATE_SIGNAL_S)
    assert worker.process.wait(30) == 0, worker.log


def test_a_forward_that_hangs_is_told_of_and_its_process_replaced(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue]
) -> None:
    settings = make_settings(redis.url, stall_s=STALL_S, models={"one": {"task": "embed", "source": "stub"}})
    client = create_app(settings)
    readyz = client.test_client()
    until("it is ready", lambda: readyz.get("/readyz").status_code == 200)
    (victim,) = worker.pool()
    names = submit(queues["one"], "hung", do="sleep", s=600)
    until("it is not ready", lambda: readyz.get("/readyz").status_code == 503)
    detail = readyz.get("/readyz").json["detail"]  # type: ignore[index]
    assert "one" in detail
    assert "stalled" in detail
    assert health.troubles_of(settings, f"test@{socket.gethostname()}")
    queues["one"].cancel(*names)  # or it would hang the next process too
    until("it was replaced", lambda: victim.pid not in [process.pid for process in worker.pool()])
    assert "has been running one batch" in worker.log
    until("it is ready again", lambda: readyz.get("/readyz").status_code == 200)
    assert health.troubles_of(settings, f"test@{socket.gethostname()}") == []
    assert health.troubles_of(settings, "test@elsewhere") != []
    assert ended(queues["one"], submit(queues["one"], "after"))[0].status == "succeeded"
    client.extensions["windrow"].waiters.close()


def test_a_forward_that_keeps_the_interpreter_longer_than_its_lease_runs_again_and_is_answered_once(
    worker: WorkerProcess, queues: dict[str, RedisQueue], redis: RedisServer, journal: Path
) -> None:
    (process,) = worker.pool()
    names = submit(queues["one"], "held", do="hold", s=4)
    until("it runs", lambda: passes(journal))
    until("its lease was lost", lambda: queues["one"].reap())
    queues["one"].cancel(*names)  # or it would be claimed and run here again
    assert [one.status for one in found(queues["one"], names)] == ["canceled"]
    assert ended(queues["one"], submit(queues["one"], "after"))[0].status == "succeeded"
    assert [one.pid for one in worker.pool()] == [process.pid]
    assert [one.status for one in found(queues["one"], names)] == ["canceled"]
    assert queues["one"].depth().counts["late"] == 1


def test_one_killer_among_32_costs_31_answers_nothing(
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
    assert {one.status for one in ended(queues["two"], good)} == {"succeeded"}
    (killer,) = ended(queues["two"], ["killer"])
    assert killer.error is not None
    assert killer.error["code"] == "attempts_exhausted"
    assert {one.status for one in ended(queues["one"], other)} == {"succeeded"}
    of_two = [line for line in passes(journal) if not set(line) <= set(other)]
    assert [len(line) for line in of_two] == [32, 32] + [1] * 32


def test_the_parent_answers_and_drains_while_a_row_runs(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_row(queues["one"], journal, s=4)
    app = Celery(broker=redis.url, backend=redis.url)
    node = f"test@{socket.gethostname()}"

    def ask(command: str) -> Any:
        answers = app.control.broadcast(command, reply=True, timeout=10, limit=1, destination=[node])
        return answers[0][node]

    try:
        until("what is held is shown", lambda: ask("inflight")["slots"]["0"]["held"] >= len(slow))
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
        assert [one.status for one in found(queues["one"], slow)] == ["processing"]
        until("what was held has ended", lambda: ask("inflight")["slots"]["0"]["held"] == 0)
        waiting = [one for one in found(queues["one"], rest) if not one.is_ended]
        assert {one.status for one in waiting} == {"queued"}
        assert waiting
        assert "ok" in ask("resume")
        ended(queues["one"], rest)
    finally:
        app.close()


def test_a_worker_told_to_shut_down_by_remote_control_does(redis: RedisServer, worker: WorkerProcess) -> None:
    app = Celery(broker=redis.url, backend=redis.url)
    app.control.shutdown()
    app.close()
    assert worker.process.wait(60) == 0, worker.log


def test_a_worker_whose_parent_is_killed_ends_too(worker: WorkerProcess) -> None:
    pool = worker.pool()
    assert pool
    worker.process.kill()
    until("the orphans are gone", lambda: not [one for one in pool if one.is_running()], limit_s=30)


def test_remote_control_can_stop_a_worker_with_a_slow_row(
    redis: RedisServer, worker: WorkerProcess, queues: dict[str, RedisQueue], journal: Path
) -> None:
    slow, rest = start_slow_row(queues["one"], journal, s=2)
    app = Celery(broker=redis.url, backend=redis.url)
    app.control.shutdown()
    app.close()
    assert worker.process.wait(30) == 0, worker.log
    assert [one.status for one in found(queues["one"], slow)] == ["succeeded"]
    assert {one.status for one in found(queues["one"], rest)} == {"queued"}
