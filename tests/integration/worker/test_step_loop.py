"""The step loop on a real Redis, with an engine that echoes its input word by word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, PLENTY, status_of
from tests.support.redis_server import RedisServer, find_embedded_server
from tests.support.step_worker import StepWorker
from tests.support.word_engine import WordEngine
from tests.support.worker_process import until
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS
from windrow.scheduler.queue import Prediction, RedisQueue, Submission
from windrow.scheduler.queue.events import BEGINNING, Event, read_events
from windrow.scheduler.queue.observations import read_observations
from windrow.scheduler.queue.records import encode_call

pytestmark = pytest.mark.integration

TEXT = "Make hay while the sun shines"


@pytest.fixture
def start(redis_client: Redis) -> Iterator[Callable[..., StepWorker]]:
    """Return a function that starts a worker; the workers are stopped after the test."""
    started: list[StepWorker] = []

    def make(**options: Any) -> StepWorker:
        started.append(StepWorker(redis_client, MODEL, **options).start())
        return started[-1]

    yield make
    for worker in started:
        worker.stop()


@pytest.fixture
def queue(redis_client: Redis) -> RedisQueue:
    return RedisQueue(redis_client, MODEL)


def submit(
    queue: RedisQueue, *ids: str, input: object = TEXT, is_followed: bool = True, deadline_s: float | None = None,
    priority: str = "normal", **parameters: object,
) -> None:  # fmt: skip
    payload = encode_call(MODEL, input, parameters, is_followed=is_followed)
    submissions = [Submission(id, payload, deadline_s=deadline_s, is_followed=is_followed) for id in ids]
    flow, weight = f"acme:{priority}", PRIORITY_WEIGHTS[priority]
    queue.submit(submissions, flow=flow, weight=weight, max_depth=PLENTY, max_bytes=PLENTY)


def events(redis: Redis, id: str) -> list[Event]:
    return read_events(redis, {id: BEGINNING})[id]


def wait_until_finished(queue: RedisQueue, id: str) -> Prediction:
    def has_finished() -> bool:
        found = queue.lookup(id)
        return found is not None and found.is_ended

    until(f"{id} finishes", has_finished, 30)
    found = queue.lookup(id)
    assert found is not None
    return found


@contextmanager
def running(worker: StepWorker, count: int) -> Iterator[None]:
    """Wait until ``count`` requests run, then enter the block."""
    until(f"{count} requests run", lambda: worker.served.running == count, 30)
    yield


def test_a_followed_request_publishes_events_while_it_runs_and_a_result_at_the_end(
    start: Callable[..., StepWorker], queue: RedisQueue, redis_client: Redis
) -> None:
    worker = start()
    submit(queue, "a")
    worker.allow_steps(2)
    until("words are published", lambda: b"hay" in b"".join(event.data for event in events(redis_client, "a")))
    found = queue.lookup("a")
    assert found is not None
    assert found.status == "processing"
    worker.allow_steps(4)
    prediction = wait_until_finished(queue, "a")
    assert prediction.output["text"] == TEXT
    metrics = {"queue_ms", "batch_wait_ms", "compute_ms", "total_ms", "time_to_first_token_ms", "inter_token_ms"}
    assert metrics | {"attempts", "worker"} == prediction.metrics.keys()
    published = events(redis_client, "a")
    assert [published[0].type, published[-1].type] == ["start", "completed"]
    assert sum(event.type == "metric" for event in published) == 1


def test_requests_join_and_leave_between_steps_and_claims_are_limited_to_free_engine_slots(
    start: Callable[..., StepWorker], queue: RedisQueue
) -> None:
    worker = start(size=2)
    submit(queue, "long", input="word " * 100_000, is_followed=False)
    with running(worker, 1):
        submit(queue, *"abcd", input="two words", is_followed=False)
    until("two requests run", lambda: worker.served.running == 2)
    assert queue.depth().waiting == 3
    worker.allow_steps(50_000)
    assert [wait_until_finished(queue, id).status for id in "abcd"] == ["succeeded"] * 4
    found = queue.lookup("long")
    assert found is not None
    assert found.status == "processing"
    queue.cancel("long")


class PreemptingEngine(WordEngine):
    """Admits one request of high priority by preempting others when four run."""

    def room_by_preemption(self, priority: int) -> int:
        return int(priority == 0 and len(self._answers) == 4)


def test_a_full_worker_claims_a_more_urgent_request_and_no_other(
    start: Callable[..., StepWorker], queue: RedisQueue
) -> None:
    gate = threading.Semaphore(0)
    worker = start(is_gated=False, engine=PreemptingEngine(gate=gate))
    submit(queue, *"abcdefgh", priority="low")
    with running(worker, 4):
        submit(queue, "urgent", "pressing", priority="high")
    with running(worker, 5):
        assert {status_of(queue, id) for id in ("urgent", *"abcd")} == {"processing"}
        assert {status_of(queue, id) for id in ("pressing", *"efgh")} == {"queued"}
    gate.release(100_000)
    assert {wait_until_finished(queue, id).status for id in ("urgent", "pressing", *"abcdefgh")} == {"succeeded"}


def test_an_invalid_input_fails_alone(start: Callable[..., StepWorker], queue: RedisQueue, redis_client: Redis) -> None:
    start(is_gated=False)
    submit(queue, "good")
    submit(queue, "bad", input=3)
    assert wait_until_finished(queue, "good").status == "succeeded"
    bad = wait_until_finished(queue, "bad")
    assert bad.error is not None
    assert bad.error["code"] == "invalid_input"
    assert [event.type for event in events(redis_client, "bad")] == ["error"]


def test_a_canceled_request_leaves_the_engine_at_once(
    start: Callable[..., StepWorker], queue: RedisQueue, redis_client: Redis
) -> None:
    worker = start(size=2)
    submit(queue, "a", "b")
    with running(worker, 2):
        worker.allow_steps(1)
    until("both have started", lambda: all(len(events(redis_client, id)) > 1 for id in "ab"))
    assert worker.engine.room() == 0
    queue.cancel("a")
    until("the request has left the engine", lambda: worker.engine.room() == 1, 5)
    worker.allow_steps(10)
    assert wait_until_finished(queue, "b").output["text"] == TEXT
    assert [event.type for event in events(redis_client, "a")][-1] == "error"
    assert worker.engine.room() == 2
    assert worker.served.leases.held == {}


def test_a_request_whose_lease_was_lost_leaves_the_engine(start: Callable[..., StepWorker], queue: RedisQueue) -> None:
    worker = start()
    submit(queue, "a", is_followed=False)
    with running(worker, 1):
        queue.release(dict(worker.served.leases.held))  # as if another worker had requeued it
    until("the request is claimed again", lambda: len(worker.engine.canceled) == 1 and worker.served.running == 1)
    worker.allow_steps(10)
    assert wait_until_finished(queue, "a").metrics["attempts"] == 1


def test_a_request_whose_worker_died_twice_runs_alone(
    start: Callable[..., StepWorker], queue: RedisQueue, redis_client: Redis
) -> None:
    submit(queue, "suspect")
    for _ in range(2):
        queue.claim(1, lease_s=0.0)
        until("its lease expires and the request is requeued", lambda: queue.reap() == 1)
    worker = start()
    submit(queue, "a", "b", is_followed=False)
    with running(worker, 1):
        assert list(worker.served.leases.held) == ["suspect"]
        assert queue.depth().waiting == 2
    worker.allow_steps(6)
    assert wait_until_finished(queue, "suspect").metrics["attempts"] == 3
    with running(worker, 2):
        worker.allow_steps(6)
    assert [wait_until_finished(queue, id).status for id in "ab"] == ["succeeded"] * 2


def test_a_stopping_worker_releases_requests_without_a_token_and_finishes_the_others(
    start: Callable[..., StepWorker], queue: RedisQueue, redis_client: Redis
) -> None:
    worker = start()
    submit(queue, "started")
    worker.allow_steps(1)
    until("the first request has started", lambda: len(events(redis_client, "started")) > 1)
    submit(queue, "unstarted")
    until("the start event is published", lambda: events(redis_client, "unstarted"))
    worker.request_stop()
    until("the second request is released", lambda: queue.depth().waiting == 1)
    worker.stop()
    assert wait_until_finished(queue, "started").output["text"] == TEXT
    other = start()
    other.allow_steps(10)
    assert wait_until_finished(queue, "unstarted").metrics["attempts"] == 1
    assert [event.type for event in events(redis_client, "unstarted")][:2] == ["start", "restart"]


def test_a_full_redis_drops_events_but_no_result() -> None:
    with RedisServer(binary=find_embedded_server()) as server, server.client() as redis:
        with StepWorker(redis, MODEL) as worker:
            submit(worker.queue, "a")
            worker.allow_steps(1)
            until("the request has started", lambda: len(events(redis, "a")) > 1)
            redis.config_set("maxmemory", "1")
            worker.allow_steps(5)
            assert wait_until_finished(worker.queue, "a").output["text"] == TEXT
            redis.config_set("maxmemory", "0")
        assert [event.type for event in events(redis, "a")] == ["start", "output", "metric", "completed"]


def test_a_request_that_cannot_meet_its_deadline_is_refused_before_it_starts(
    start: Callable[..., StepWorker], queue: RedisQueue
) -> None:
    start(is_gated=False, step_s=0.02)
    submit(queue, "measured", input="word " * 25, is_followed=False)
    wait_until_finished(queue, "measured")
    submit(queue, "beside", input="word " * 500, is_followed=False)
    submit(queue, "hopeless", is_followed=False, deadline_s=5.0, max_tokens=1000, ignore_eos=True)
    submit(queue, "possible", is_followed=False, deadline_s=60.0, max_tokens=1000)
    hopeless = wait_until_finished(queue, "hopeless")
    assert hopeless.status == "expired"
    assert hopeless.error is not None
    assert "not started" in hopeless.error["detail"]
    assert wait_until_finished(queue, "possible").status == "succeeded"
    queue.cancel("beside")


def test_an_idle_engine_tries_to_meet_any_deadline(start: Callable[..., StepWorker], queue: RedisQueue) -> None:
    start(is_gated=False, step_s=0.02)
    submit(queue, "measured", input="word " * 25, is_followed=False)
    wait_until_finished(queue, "measured")
    submit(queue, "tried", is_followed=False, deadline_s=5.0, max_tokens=1000, ignore_eos=True)
    assert wait_until_finished(queue, "tried").status == "succeeded"


def test_tokens_and_times_are_added_to_the_metrics(
    start: Callable[..., StepWorker], queue: RedisQueue, redis_client: Redis
) -> None:
    start(is_gated=False)
    submit(queue, "a", "b")
    for id in "ab":
        wait_until_finished(queue, id)
    until("the observations are stored", lambda: read_observations(redis_client, MODEL).tokens["completion"] == 12, 10)
    observed = read_observations(redis_client, MODEL)
    assert observed.tokens == {"prompt": 12, "cached": 0, "completion": 12}
    counts = {name: sum(histogram.counts) for name, histogram in observed.histograms.items()}
    assert counts == dict.fromkeys(["queue", "batch_wait", "compute", "request", "first_token"], 2) | {
        "inter_token": 10, "batch_size": 0, "batch_tokens": 0, "padding_ratio": 0,
    }  # fmt: skip
