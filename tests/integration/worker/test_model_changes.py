"""Reload models and change batch limits under load: no request is lost or answered by two models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from tests.support.named_engine import NamedEngine
from tests.support.tiny_llama import save_tiny_llama
from tests.support.word_engine import WordEngine
from tests.support.worker_process import until
from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.queue import Prediction, RedisQueue, Submission
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.engines.base import Engine, StepEngine
from windrow.worker.leases.served_model import ServedModel
from windrow.worker.pool.model_changes import ModelChanges
from windrow.worker.process import model_requests
from windrow.worker.process.model_requests import Batching, ModelRequests, read_model_requests
from windrow.worker.steps.step_model import StepModel

pytestmark = pytest.mark.integration
LIMITS = BatchLimits(4, 1000)


class LoopThread:
    """A batch loop that serves the model ``m``, which ``load`` reloads."""

    def __init__(self, redis: Redis, make: Callable[[RedisQueue], ServedModel], load: Callable[[str], Any]) -> None:
        self.queue = RedisQueue(redis, "m")
        self.model: Any = make(self.queue)
        self._stop = threading.Event()

        def stopping() -> int:
            return int(self._stop.is_set())

        self.batch_loop = BatchLoop({"m": self.model}, stopping)
        limits = BatchLimits(64, 2000)
        self.batch_loop.on_look = ModelChanges(
            {"m": self.model}, self.batch_loop.buffer, load, lambda *_: limits, read_model_requests(), stopping
        ).look
        self._thread = threading.Thread(target=self.batch_loop.run)
        self._thread.start()

    def submit(self, *ids: str) -> None:
        payload = orjson.dumps({"model": "m", "input": "make hay while the sun shines", "parameters": {}})
        self.queue.submit(
            [Submission(id, payload) for id in ids], flow="t:normal", weight=1.0, max_depth=10_000, max_bytes=1 << 26
        )

    def wait_until_finished(self, *ids: str) -> list[Prediction]:
        def finished() -> list[Prediction]:
            return [found for id in ids if (found := self.queue.lookup(id)) is not None and found.is_ended]

        until("all requests finish", lambda: len(finished()) == len(ids), 20)
        return finished()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def start(redis_client: Redis) -> Iterator[Callable[..., LoopThread]]:
    started: list[LoopThread] = []

    def start_loop(make: Callable[[RedisQueue], ServedModel], load: Callable[[str], Any]) -> LoopThread:
        started.append(LoopThread(redis_client, make, load))
        return started[-1]

    yield start_loop
    for running in started:
        running.close()
    model_requests._write(ModelRequests())


def batch_model(engine: Engine) -> Callable[[RedisQueue], BatchModel]:
    return lambda queue: BatchModel(queue, engine, LIMITS, 0.001, 60.0, "worker@test/0")


def step_model(redis: Redis, engine: StepEngine) -> Callable[[RedisQueue], StepModel]:
    return lambda queue: StepModel(redis, queue, engine, 60.0, "worker@test/0")


def test_a_reloaded_model_replaces_the_old_one_between_two_batches(start: Callable[..., LoopThread]) -> None:
    names = iter(["second", "third"])
    loop = start(batch_model(NamedEngine("first")), lambda _: NamedEngine(next(names)))
    ids = [f"r{number}" for number in range(600)]
    for start_index in range(0, 600, 20):
        loop.submit(*ids[start_index : start_index + 20])
        if start_index in (200, 400):
            model_requests.request_reload("m")
        time.sleep(0.02)
    finished = loop.wait_until_finished(*ids)
    assert {prediction.status for prediction in finished} == {"succeeded"}
    until("the reload is reported", lambda: "reloaded at" in (loop.model.status.reload_note or ""))
    answers = [prediction.output for prediction in finished]
    assert set(answers) == {"first", "second", "third"}
    assert {prediction.metrics["attempts"] for prediction in finished} == {1}
    assert loop.model.limits == BatchLimits(4, 2000)  # max_batch_tokens is that of the new model
    assert "reloaded at" in (loop.queue.workers(within_s=60)["worker@test/0"].reload_note or "")


@pytest.mark.parametrize(
    ("error", "reason"), [(ModelUnusable("no safetensors"), "no safetensors"), (OSError("disk"), "OSError: disk")]
)
def test_a_failed_reload_keeps_the_old_model_and_reports_the_reason(
    start: Callable[..., LoopThread], error: Exception, reason: str
) -> None:
    def load(model: str) -> Engine:
        raise error

    loop = start(batch_model(NamedEngine("first")), load)
    model_requests.request_reload("m")
    until("the failure is reported", lambda: reason in (loop.model.status.reload_note or ""))
    assert "stays in service as it was" in loop.model.status.reload_note
    loop.submit("after")
    assert loop.wait_until_finished("after")[0].output == "first"


def test_sequences_that_have_started_are_finished_by_the_model_that_started_them(
    start: Callable[..., LoopThread], redis_client: Redis
) -> None:
    old, new = WordEngine("m", size=2, step_s=0.02), WordEngine("m", size=2, step_s=0.001)
    loop = start(step_model(redis_client, old), lambda _: new)
    loop.submit("a", "b", "c")
    until("two requests run", lambda: loop.model.running == 2)
    model_requests.request_reload("m")
    until("the reload is reported", lambda: "reloaded at" in (loop.model.status.reload_note or ""))
    loop.submit("d")
    finished = loop.wait_until_finished("a", "b", "c", "d")
    assert {prediction.output["text"] for prediction in finished} == {"make hay while the sun shines"}
    assert {prediction.metrics["attempts"] for prediction in finished} == {1}
    assert not old.canceled
    assert loop.model.engine is new
    assert new.busy_s > 0


def test_new_weights_on_disk_are_used_after_a_reload(
    start: Callable[..., LoopThread], redis_client: Redis, tmp_path: Path
) -> None:
    from windrow.worker.engines.loading import load_engine, load_engine_afresh

    for seed in (0, 1):
        save_tiny_llama(tmp_path / str(seed), seed=seed)
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "0")
    settings = ModelSettings.model_validate({"task": "generate", "source": str(current), "max_batch_size": 4})
    loop = start(
        step_model(redis_client, load_engine("m", settings)), lambda model: load_engine_afresh(model, settings)
    )
    loop.submit("before")
    before = loop.wait_until_finished("before")[0].output["text"]
    (tmp_path / "next").symlink_to(tmp_path / "1")
    (tmp_path / "next").rename(current)
    ids = [f"r{number}" for number in range(40)]
    loop.submit(*ids[:20])
    model_requests.request_reload("m")
    until("the reload is reported", lambda: "reloaded at" in (loop.model.status.reload_note or ""))
    loop.submit(*ids[20:])
    finished = loop.wait_until_finished(*ids)
    assert {prediction.status for prediction in finished} == {"succeeded"}
    texts = [prediction.output["text"] for prediction in finished]
    assert set(texts[20:]) != {before}
    assert len(set(texts[20:])) == 1
    assert set(texts[:20]) <= {before, texts[-1]}


def test_new_batch_limits_apply_to_later_batches(start: Callable[..., LoopThread]) -> None:
    engine = NamedEngine("first", batch_s=0.02)
    loop = start(batch_model(engine), lambda _: engine)
    first, second = [f"a{number}" for number in range(40)], [f"b{number}" for number in range(40)]
    loop.submit(*first)
    loop.wait_until_finished(*first)
    assert max(engine.sizes) == 4
    engine.sizes.clear()
    model_requests.set_batching("m", Batching(16, None))
    until("the loop applies the new limits", lambda: loop.model.batching == Batching(16, None))
    loop.submit(*second)
    loop.wait_until_finished(*second)
    assert 4 < max(engine.sizes) <= 16
    engine.sizes.clear()
    model_requests.set_batching("m", Batching(2, 0.0))
    until("the loop applies the new limits", lambda: loop.model.batching == Batching(2, 0.0))
    third = [f"c{number}" for number in range(40)]
    loop.submit(*third)
    loop.wait_until_finished(*third)
    assert max(engine.sizes) == 2
    assert loop.model.scheduler.max_wait_s == 0.0
