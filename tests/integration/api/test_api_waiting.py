"""Waiting for results: one subscription for all clients, and no client misses its result."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from tests.support.api_client import ApiClient
from tests.support.api_fixtures import make_settings
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from windrow.api import create_app
from windrow.api.subscriptions.waiters import Waiters
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import RedisQueue, Submission, finished_channel

pytestmark = pytest.mark.integration

CHANNEL = finished_channel("minilm")


def submit(queue: RedisQueue, *ids: str) -> None:
    items = [Submission(id, b'{"model":"minilm","input":"a","parameters":{}}') for id in ids]
    queue.submit(items, flow="default:normal", weight=1, max_depth=10_000, max_bytes=1 << 30)


def until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.fixture
def waiters(redis_server: str) -> Iterator[Waiters]:
    with Redis.from_url(redis_server) as redis:
        waiting = Waiters(redis, [CHANNEL])
        yield waiting
        waiting.close()


def subscribers(redis: Redis) -> int:
    return int(redis.pubsub_numsub(CHANNEL)[0][1])


def test_many_waiters_share_one_subscription(waiters: Waiters, redis_client: Redis, worker: FakeWorker) -> None:
    worker.pause()
    ids = [f"id-{at}" for at in range(300)]
    found: list[Any] = []

    def wait(id: str) -> None:
        with waiters.expect(id) as waiter:
            found.append(waiter.wait(30))

    threads = [threading.Thread(target=wait, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    submit(worker.queue, *ids)
    # The listener of an application that was just closed may still be subscribed.
    until(lambda: len(waiters) == len(ids) and subscribers(redis_client) == 1)
    worker.resume()
    for thread in threads:
        thread.join()
    assert {prediction.id for prediction in found} == set(ids)
    assert {prediction.status for prediction in found} == {"succeeded"}
    assert len(waiters) == 0


def test_two_clients_may_wait_for_the_same_prediction(waiters: Waiters, worker: FakeWorker) -> None:
    with waiters.expect("one") as first, waiters.expect("one") as second:
        submit(worker.queue, "one")
        answers = [waiter.wait(20) for waiter in (first, second)]
    assert [answer.status for answer in answers if answer] == ["succeeded", "succeeded"]


def test_a_wait_that_ends_without_a_result_is_forgotten(waiters: Waiters) -> None:
    with waiters.expect("one") as waiter:
        assert waiter.wait(0.001) is None
    with pytest.raises(ZeroDivisionError), waiters.expect("one"):
        raise ZeroDivisionError
    assert len(waiters) == 0


def test_a_result_is_found_although_its_message_was_lost(
    waiters: Waiters, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive_nothing(self: Waiters, messages: object, timeout_s: float) -> list[bytes]:
        time.sleep(min(0.05, timeout_s))
        return []

    monkeypatch.setattr(Waiters, "_next", receive_nothing)
    with waiters.expect("one") as waiter:
        submit(worker.queue, "one")
        found = waiter.wait(20)
    assert found is not None
    assert found.output == {"embedding": [1.0]}


def test_the_result_of_another_celery_task_is_ignored(waiters: Waiters, redis_client: Redis) -> None:
    redis_client.set("celery-task-meta-one", b'{"status":"SUCCESS","result":1}')
    with waiters.expect("one") as waiter:
        until(lambda: subscribers(redis_client) == 1)
        redis_client.publish(CHANNEL, "one")
        assert waiter.wait(0.2) is None


def test_all_waiting_clients_get_202_when_the_server_stops(redis_server: str, worker: FakeWorker) -> None:
    worker.pause()
    app = create_app(make_settings(redis_server))
    waiting = app.extensions["windrow"].waiters
    answers: list[Any] = []
    client = ApiClient(app)
    thread = threading.Thread(target=lambda: answers.append(client.predict(headers={"Prefer": "wait=60"})))
    thread.start()
    until(lambda: len(waiting) == 1)
    waiting.close()
    thread.join()
    assert (answers[0].status_code, answers[0].json["status"]) == (202, "queued")


def test_a_listener_survives_a_restart_of_redis() -> None:
    with RedisServer() as server, Redis.from_url(server.url) as redis:
        waiters = Waiters(redis, [CHANNEL])
        with waiters.expect("one") as waiter:
            until(lambda: subscribers(redis) == 1)
            server.kill()
            assert waiter.wait(0.1) is None
            server.start()
            with FakeWorker(server.url, "minilm", lambda call: Done("after")) as worker:
                submit(worker.queue, "one")
                found = waiter.wait(20)
            assert found is not None
            assert found.output == "after"
            until(lambda: subscribers(redis) == 1)
        waiters.close()


def test_an_idle_listener_sends_few_commands(waiters: Waiters, redis_client: Redis) -> None:
    with waiters.expect("one"):
        until(lambda: subscribers(redis_client) == 1)
        before = redis_client.info("stats")["total_commands_processed"]
        time.sleep(0.5)
        assert redis_client.info("stats")["total_commands_processed"] - before < 20
