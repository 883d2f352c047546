"""A request that takes long to prepare: other requests continue, and a stopping worker gives requests back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, PLENTY
from tests.support.step_worker import StepWorker
from tests.support.word_engine import WordEngine
from tests.support.worker_process import until
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.records import encode_call
from windrow.worker.engines.base import Prepared

pytestmark = pytest.mark.integration


class Compiling(WordEngine):
    """Prepares requests with a schema only after ``may`` is set."""

    def __init__(self, size: int = 4) -> None:
        super().__init__(MODEL, size=size)
        self.may = threading.Event()
        self.at_work = 0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        if any("schema" in one for one in parameters):
            self.at_work += 1
            assert self.may.wait(60)
        return super().prepare(inputs, parameters)


@pytest.fixture
def queue(redis_client: Redis) -> RedisQueue:
    return RedisQueue(redis_client, MODEL)


def submit(queue: RedisQueue, *ids: str, **parameters: object) -> None:
    payload = encode_call(MODEL, "make hay", parameters)
    submissions = [Submission(id, payload) for id in ids]
    queue.submit(submissions, flow="acme:normal", weight=1.0, max_depth=PLENTY, max_bytes=PLENTY)


def status(queue: RedisQueue, id: str) -> str:
    found = queue.lookup(id)
    assert found is not None
    return found.status


def test_requests_without_a_schema_do_not_wait_for_the_preparation_of_one(
    redis_client: Redis, queue: RedisQueue
) -> None:
    engine = Compiling()
    try:
        with StepWorker(redis_client, MODEL, engine=engine, is_gated=False):
            submit(queue, "held", schema={"type": "string"})
            until("its schema is compiled", lambda: engine.at_work == 1, 30)
            submit(queue, "a", "b")
            until("the others have ended", lambda: {status(queue, id) for id in "ab"} == {"succeeded"}, 30)
            assert status(queue, "held") == "processing"
            engine.may.set()
            until("it has ended too", lambda: status(queue, "held") == "succeeded", 30)
    finally:
        engine.may.set()


def test_requests_in_preparation_count_when_requests_are_claimed(redis_client: Redis, queue: RedisQueue) -> None:
    engine = Compiling(size=2)
    try:
        with StepWorker(redis_client, MODEL, engine=engine, is_gated=False):
            submit(queue, *"abcde", schema={"type": "string"})
            until("the first is compiled", lambda: engine.at_work == 1, 30)
            until("two are claimed", lambda: [status(queue, id) for id in "abcde"].count("processing") == 2, 30)
            assert [status(queue, id) for id in "abcde"].count("queued") == 3
            engine.may.set()
            until("all have ended", lambda: {status(queue, id) for id in "abcde"} == {"succeeded"}, 30)
    finally:
        engine.may.set()


def test_a_stopping_worker_releases_requests_that_are_not_prepared(redis_client: Redis, queue: RedisQueue) -> None:
    engine = Compiling()
    worker = StepWorker(redis_client, MODEL, engine=engine, is_gated=False).start()
    try:
        submit(queue, "a", "b", "c", schema={"type": "string"})
        until("the first is compiled", lambda: engine.at_work == 1 and len(worker.served.leases.held) == 3, 30)
        worker.request_stop()
        until("the others are back", lambda: [status(queue, id) for id in "abc"].count("queued") == 2, 30)
    finally:
        engine.may.set()
        worker.stop()
    assert {status(queue, id) for id in "abc"} <= {"queued", "succeeded"}
    assert engine.at_work == 1
    assert not worker.served.leases.held
