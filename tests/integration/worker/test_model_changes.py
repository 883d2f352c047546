"""Models loaded anew and rows made otherwise while requests come: none is lost, and none is answered by two models."""

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
from windrow.worker.process import model_requests as orders
from windrow.worker.process.model_requests import Batching, ModelRequests, read_model_requests
from windrow.worker.steps.step_model import StepModel

pytestmark = pytest.mark.integration
LIMITS = BatchLimits(4, 1000)


class Site:
    """A resident loop with the lane ``m``, whose model is loaded anew by ``load``."""

    def __init__(self, redis: Redis, make: Callable[[RedisQueue], ServedModel], load: Callable[[str], Any]) -> None:
        self.queue = RedisQueue(redis, "m")
        self.lane: Any = make(self.queue)
        self._stop = threading.Event()

        def stopping() -> int:
            return int(self._stop.is_set())

        self.resident = BatchLoop({"m": self.lane}, stopping)
        limits = BatchLimits(64, 2000)
        self.resident.on_look = ModelChanges(
            {"m": self.lane}, self.resident.buffer, load, lambda *_: limits, read_model_requests(), stopping
        ).look
        self._thread = threading.Thread(target=self.resident.run)
        self._thread.start()

    def submit(self, *ids: str) -> None:
        payload = orjson.dumps({"model": "m", "input": "make hay while the sun shines", "parameters": {}})
        self.queue.submit(
            [Submission(id, payload) for id in ids], flow="t:normal", weight=1.0, max_depth=10_000, max_bytes=1 << 26
        )

    def ended(self, *ids: str) -> list[Prediction]:
        def found() -> list[Prediction]:
            return [one for id in ids if (one := self.queue.lookup(id)) is not None and one.is_ended]

        until("all have ended", lambda: len(found()) == len(ids), 20)
        return found()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def start(redis_client: Redis) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def start_site(make: Callable[[RedisQueue], ServedModel], load: Callable[[str], Any]) -> Site:
        made.append(Site(redis_client, make, load))
        return made[-1]

    yield start_site
    for site in made:
        site.close()
    orders._write(ModelRequests())


def rows_of(engine: Engine) -> Callable[[RedisQueue], BatchModel]:
    return lambda queue: BatchModel(queue, engine, LIMITS, 0.001, 60.0, "worker@test/0")


def steps_of(redis: Redis, engine: StepEngine) -> Callable[[RedisQueue], StepModel]:
    return lambda queue: StepModel(redis, queue, engine, 60.0, "worker@test/0")


def test_a_model_loaded_anew_takes_over_between_two_requests(start: Callable[..., Site]) -> None:
    names = iter(["second", "third"])
    site = start(rows_of(NamedEngine("first")), lambda _: NamedEngine(next(names)))
    ids = [f"r{number}" for number in range(600)]
    for at in range(0, 600, 20):
        site.submit(*ids[at : at + 20])
        if at in (200, 400):
            orders.request_reload("m")
        time.sleep(0.02)
    ended = site.ended(*ids)
    assert {one.status for one in ended} == {"succeeded"}
    until("it was told", lambda: "reloaded at" in (site.lane.status.reload_note or ""))
    answers = [one.output for one in ended]
    assert set(answers) == {"first", "second", "third"}
    assert {one.metrics["attempts"] for one in ended} == {1}
    assert site.lane.limits == BatchLimits(4, 2000)  # the tokens are those of what was loaded
    assert "reloaded at" in (site.queue.workers(within_s=60)["worker@test/0"].reload_note or "")


@pytest.mark.parametrize(
    ("error", "says"), [(ModelUnusable("no safetensors"), "no safetensors"), (OSError("disk"), "OSError: disk")]
)
def test_one_that_cannot_be_loaded_leaves_the_old_one_and_says_why(
    start: Callable[..., Site], error: Exception, says: str
) -> None:
    def load(model: str) -> Engine:
        raise error

    site = start(rows_of(NamedEngine("first")), load)
    orders.request_reload("m")
    until("it was told", lambda: says in (site.lane.status.reload_note or ""))
    assert "stays in service as it was" in site.lane.status.reload_note
    site.submit("after")
    assert site.ended("after")[0].output == "first"


def test_answers_that_have_begun_are_ended_by_the_model_that_began_them(
    start: Callable[..., Site], redis_client: Redis
) -> None:
    old, new = WordEngine("m", size=2, step_s=0.02), WordEngine("m", size=2, step_s=0.001)
    site = start(steps_of(redis_client, old), lambda _: new)
    site.submit("a", "b", "c")
    until("two have begun", lambda: site.lane.running == 2)
    orders.request_reload("m")
    until("it was told", lambda: "reloaded at" in (site.lane.status.reload_note or ""))
    site.submit("d")
    ended = site.ended("a", "b", "c", "d")
    assert {one.output["text"] for one in ended} == {"make hay while the sun shines"}
    assert {one.metrics["attempts"] for one in ended} == {1}
    assert not old.canceled
    assert site.lane.engine is new
    assert new.busy_s > 0


def test_new_weights_on_disk_answer_once_they_are_loaded(
    start: Callable[..., Site], redis_client: Redis, tmp_path: Path
) -> None:
    from windrow.worker.engines.loading import load_engine, load_engine_afresh

    for seed in (0, 1):
        save_tiny_llama(tmp_path / str(seed), seed=seed)
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "0")
    settings = ModelSettings.model_validate({"task": "generate", "source": str(current), "max_batch_size": 4})
    site = start(steps_of(redis_client, load_engine("m", settings)), lambda model: load_engine_afresh(model, settings))
    site.submit("before")
    before = site.ended("before")[0].output["text"]
    (tmp_path / "next").symlink_to(tmp_path / "1")
    (tmp_path / "next").rename(current)
    ids = [f"r{number}" for number in range(40)]
    site.submit(*ids[:20])
    orders.request_reload("m")
    until("it was told", lambda: "reloaded at" in (site.lane.status.reload_note or ""))
    site.submit(*ids[20:])
    ended = site.ended(*ids)
    assert {one.status for one in ended} == {"succeeded"}
    texts = [one.output["text"] for one in ended]
    assert set(texts[20:]) != {before}
    assert len(set(texts[20:])) == 1
    assert set(texts[:20]) <= {before, texts[-1]}


def test_rows_are_put_together_as_asked_from_then_on(start: Callable[..., Site]) -> None:
    engine = NamedEngine("first", batch_s=0.02)
    site = start(rows_of(engine), lambda _: engine)
    first, second = [f"a{number}" for number in range(40)], [f"b{number}" for number in range(40)]
    site.submit(*first)
    site.ended(*first)
    assert max(engine.sizes) == 4
    engine.sizes.clear()
    orders.set_batching("m", Batching(16, None))
    until("it is known", lambda: site.lane.batching == Batching(16, None))
    site.submit(*second)
    site.ended(*second)
    assert 4 < max(engine.sizes) <= 16
    engine.sizes.clear()
    orders.set_batching("m", Batching(2, 0.0))
    until("it is known", lambda: site.lane.batching == Batching(2, 0.0))
    third = [f"c{number}" for number in range(40)]
    site.submit(*third)
    site.ended(*third)
    assert max(engine.sizes) == 2
    assert site.lane.scheduler.max_wait_s == 0.0
