"""Event streams of an upstream model: the reported tokens and the metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, PLENTY
from tests.support.scripted_server import Answer, Handler, ScriptedServer
from tests.support.step_worker import StepWorker
from tests.support.worker_process import until
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.queue import Prediction, RedisQueue, Submission
from windrow.scheduler.queue.events import BEGINNING, OUTPUT, read_events
from windrow.scheduler.queue.metrics import Histogram
from windrow.scheduler.queue.observations import read_observations
from windrow.scheduler.queue.records import encode_call
from windrow.worker.engines.upstream.engine import UpstreamEngine

pytestmark = pytest.mark.integration


@pytest.fixture
def server(redis_client: Redis) -> Iterator[ScriptedServer]:
    """A server, and a worker for whose model it answers."""
    with ScriptedServer() as server:
        table = {"task": "upstream", "url": f"http://127.0.0.1:{server.port}/v1"}
        engine = UpstreamEngine(MODEL, ModelSettings.model_validate(table))
        with StepWorker(redis_client, MODEL, is_gated=False, engine=engine):
            yield server


def ask(redis: Redis, server: ScriptedServer, answer: Answer, **parameters: Any) -> tuple[Prediction, dict[int, int]]:
    """Return the outcome of a request with these answers, and the tokens in its events, by choice."""
    server.next = [answer]
    queue = RedisQueue(redis, MODEL)
    payload = encode_call(MODEL, "hay", parameters, is_followed=True)
    submission = Submission("a", payload, is_followed=True)
    queue.submit([submission], flow="t:normal", weight=1.0, max_depth=PLENTY, max_bytes=PLENTY)
    found: list[Prediction] = []

    def has_ended() -> bool:
        found[:] = [one for one in [queue.lookup("a")] if one is not None and one.is_ended]
        return bool(found)

    until("it has ended", has_ended, 20)
    told: dict[int, int] = {}
    for event in read_events(redis, {"a": BEGINNING})["a"]:
        if event.type == OUTPUT:
            piece = orjson.loads(event.data)
            assert piece["tokens"] >= 0
            told[piece["index"]] = told.get(piece["index"], 0) + piece["tokens"]
    return found[0], told


def inter_token(redis: Redis) -> Histogram:
    """What was measured from token to token, once it is stored."""
    until("it is stored", lambda: read_observations(redis, MODEL).tokens["completion"], 10)
    return read_observations(redis, MODEL).histograms["inter_token"]


def test_chunks_of_many_tokens_are_counted_as_usage_says(redis_client: Redis, server: ScriptedServer) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for _ in range(6):
            handler.chunk("several words ")
        handler.chunk(None, "stop", usage={"prompt_tokens": 1, "completion_tokens": 60})
        handler.data("[DONE]")

    prediction, told = ask(redis_client, server, answer)
    assert prediction.output["usage"]["completion_tokens"] == 60
    assert told == {0: 60}
    measured = inter_token(redis_client)
    assert sum(measured.counts) == 59
    assert measured.sum * 1e3 == pytest.approx(59 * prediction.metrics["inter_token_ms"], abs=0.1)


def test_usage_in_every_chunk_is_counted_once(redis_client: Redis, server: ScriptedServer) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for so_far in (1, 2, 12):
            handler.chunk("word ", usage={"prompt_tokens": 1, "completion_tokens": so_far})
        handler.chunk(None, "stop", usage={"prompt_tokens": 1, "completion_tokens": 12})
        handler.data("[DONE]")

    _, told = ask(redis_client, server, answer)
    assert told == {0: 12}
    assert sum(inter_token(redis_client).counts) == 11


def test_tokens_of_several_choices_add_up_to_usage(redis_client: Redis, server: ScriptedServer) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for index in (0, 1, 1, 0):
            handler.data({"choices": [{"index": index, "text": "word "}]})
        for index in (0, 1):
            handler.data({"choices": [{"index": index, "text": "", "finish_reason": "stop"}]})
        handler.data({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 21}})

    prediction, told = ask(redis_client, server, answer, n=2)
    assert prediction.output["usage"]["completion_tokens"] == 21
    assert told == {0: 11, 1: 10}


def test_an_invalid_chunk_fails_its_request_only(redis_client: Redis, server: ScriptedServer) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.chunk("begun", usage={"completion_tokens": -3, "prompt_tokens_details": {"cached_tokens": "z"}})

    prediction, told = ask(redis_client, server, answer)
    assert prediction.error is not None
    assert (prediction.error["code"], prediction.metrics["attempts"]) == ("upstream_failed", 1)
    assert told == {}
