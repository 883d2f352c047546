"""The step loop with the generate engine: a tiny random Llama and a real Redis."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from redis import Redis

from tests.support.queue_calls import PLENTY
from tests.support.redis_server import RedisServer
from tests.support.step_worker import StepWorker
from tests.support.tiny_llama import save_tiny_llama
from tests.support.worker_process import until
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.queue import Prediction, Submission
from windrow.scheduler.queue.events import BEGINNING, read_events
from windrow.scheduler.queue.records import encode_call
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.loading import load_engine

pytestmark = pytest.mark.integration

MODEL = "tiny"
CONTEXT_TOKENS = 128


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with RedisServer() as server, server.client() as client:
        yield client


@pytest.fixture(scope="module")
def worker(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepWorker]:
    folder: Path = save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=CONTEXT_TOKENS)
    settings = ModelSettings(
        task="generate", source=str(folder), max_batch_size=4, page_tokens=4, dtype="float32", cache_tokens=512
    )
    engine = load_engine(MODEL, settings)
    assert isinstance(engine, GenerateEngine)
    with StepWorker(redis, MODEL, is_gated=False, engine=engine) as running:
        yield running


def submit(worker: StepWorker, id: str, prompt: object, *, is_followed: bool = True, **parameters: object) -> None:
    payload = encode_call(MODEL, prompt, parameters, is_followed=is_followed)
    limits = {"max_depth": PLENTY, "max_bytes": PLENTY}
    submission = Submission(id, payload, is_followed=is_followed)
    worker.queue.submit([submission], flow="acme:normal", weight=1.0, **limits)  # type: ignore[arg-type]


def ended(worker: StepWorker, id: str) -> Prediction:
    until(f"{id} has ended", lambda: (found := worker.queue.lookup(id)) is not None and found.is_ended, 60)
    found = worker.queue.lookup(id)
    assert found is not None
    return found


def streamed(redis: Redis, id: str) -> dict[int, str]:
    """The text of each answer, put together from its pieces."""
    texts: dict[int, str] = {}
    for event in read_events(redis, {id: BEGINNING})[id]:
        if event.type == "output":
            data = orjson.loads(event.data)
            texts[data["index"]] = texts.get(data["index"], "") + data["text"]
    return texts


def test_a_stream_has_the_text_of_the_result_whatever_else_runs(worker: StepWorker, redis: Redis) -> None:
    sampled = {"temperature": 1.0, "seed": 7, "max_tokens": 24, "ignore_eos": True}
    submit(worker, "alone", "Make hay", is_followed=False, **sampled)
    alone = ended(worker, "alone").output["text"]
    for number in range(6):
        submit(worker, f"other-{number}", "The sun shines", max_tokens=40, is_followed=number % 2 == 0)
    submit(worker, "beside", "Make hay", **sampled)
    submit(worker, "twice", "Make hay", n=2, **sampled)
    beside, twice = ended(worker, "beside"), ended(worker, "twice")
    assert beside.output["text"] == streamed(redis, "beside")[0] == alone
    assert beside.output["usage"]["completion_tokens"] == 24
    assert streamed(redis, "twice") == {one["index"]: one["text"] for one in twice.output["choices"]}
    for number in range(6):
        assert ended(worker, f"other-{number}").status == "succeeded"


def test_an_invalid_request_fails_alone(worker: StepWorker) -> None:
    submit(worker, "good", "Make hay", max_tokens=4)
    submit(worker, "long", "word " * CONTEXT_TOKENS)
    submit(worker, "hot", "Make hay", temperature=-1)
    assert ended(worker, "good").status == "succeeded"
    errors = {id: ended(worker, id).error for id in ("long", "hot")}
    assert {id: error and error["code"] for id, error in errors.items()} == {
        "long": "input_too_long",
        "hot": "invalid_input",
    }


def test_canceled_requests_free_all_their_pages(worker: StepWorker) -> None:
    chosen = random.Random(5)
    ids = [f"leak-{number}" for number in range(40)]
    for id in ids:
        submit(worker, id, "hay " * chosen.randint(1, 20), max_tokens=chosen.randint(1, 30), n=chosen.randint(1, 2))
        if chosen.random() < 0.5:
            worker.queue.cancel(chosen.choice(ids))
    statuses = {ended(worker, id).status for id in ids}
    assert statuses == {"succeeded", "canceled"}
    until("nothing runs", lambda: worker.served.running == 0 and not worker.served.leases.held)
    until("all pages are free", lambda: worker.served.engine.cache_use().pages_taken == 0, 10)
