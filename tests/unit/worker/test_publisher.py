"""The publisher writes events before results, retries failed writes, and drops streams of lost requests."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import Entry
from windrow.worker.engines.base import Delta
from windrow.worker.steps.publisher import Publisher


class Redis:
    """The event streams and the leases of one model: accepts everything by default."""

    def __init__(self) -> None:
        self.queue = SimpleNamespace(model="m")
        self.error: Exception | None = None
        self.lost: set[str] = set()
        self.log: list[str] = []
        self.busy_s: list[float] = []

    def append(self, entries: Sequence[Entry]) -> list[str | None]:
        if self.error is not None:
            raise self.error
        self.log += [f"{entry.type} {entry.id}" for entry in entries if entry.id not in self.lost]
        return [None if entry.id in self.lost else entry.place or "1-0" for entry in entries]

    def finish(self, requests: Sequence[Request], busy_s: float, *, may_stream: bool) -> None:
        if isinstance(self.error, RedisConnectionError):
            raise self.error
        assert may_stream
        self.log += [f"result {request.id}" for request in requests]
        self.busy_s.append(busy_s)


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def publisher(redis: Redis) -> Publisher:
    fake: Any = redis
    return Publisher(fake, fake)


def follow(publisher: Publisher, id: str) -> Request:
    request = Request(id, "token", 1, 0.0, None, "t:normal", b'{"stream":true}', 1, 2)
    publisher.follow(id, request)
    return request


def finish(publisher: Publisher, request: Request) -> None:
    done = Done({})
    publisher.add([Delta(request.id, 0, "hay", 1, None, done, True)], [(request.id, 1.5)], [(request.id, request)])


def publish(publisher: Publisher, busy_s: float = 0.0) -> list[str]:
    """Publish everything that is due; return the requests that were lost."""
    lost: list[str] = []
    while (requests := publisher.write_events()) is not None:
        lost += [request.id for request in requests]
    publisher.store_finished(busy_s)
    return lost


def test_events_are_written_before_the_result(publisher: Publisher, redis: Redis) -> None:
    finish(publisher, follow(publisher, "a"))
    assert publisher.urgent.is_set()
    publish(publisher)
    assert redis.log == ["start a", "output a", "metric a", "result a"]
    assert publisher.wait_s() is None


def test_the_result_of_a_request_without_events_is_stored(publisher: Publisher, redis: Redis) -> None:
    request = Request("a", "token", 1, 0.0, None, "t:normal", b"{}", 1, 2)
    publisher.add((), (), [("", request)])
    assert publisher.wait_s() == 0.0
    publish(publisher)
    assert redis.log == ["result a"]


def test_device_time_is_counted_since_the_last_result(publisher: Publisher, redis: Redis) -> None:
    for busy_s in (2.0, 5.0):
        finish(publisher, follow(publisher, "a"))
        publish(publisher, busy_s)
    publisher.engine_replaced(1.0)
    finish(publisher, follow(publisher, "a"))
    publish(publisher, 1.5)
    assert redis.busy_s == [2.0, 3.0, 0.5]


def test_entries_that_could_not_be_written_are_written_once_after_redis_returns(
    publisher: Publisher, redis: Redis
) -> None:
    finish(publisher, follow(publisher, "a"))
    redis.error = RedisConnectionError("unavailable")
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            publish(publisher)
    redis.error = None
    publish(publisher)
    assert redis.log == ["start a", "output a", "metric a", "result a"]


def test_a_full_redis_drops_the_events_and_stores_the_result(publisher: Publisher, redis: Redis) -> None:
    finish(publisher, follow(publisher, "a"))
    redis.error = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    assert publish(publisher) == []
    assert redis.log == ["result a"]


def test_a_request_lost_before_its_start_event_does_not_block_the_thread(publisher: Publisher, redis: Redis) -> None:
    finish(publisher, follow(publisher, "a"))
    redis.lost = {"a"}
    assert publish(publisher) == ["a"]
    assert redis.log == ["result a"]  # Redis refuses it by its attempt token
    assert publisher.wait_s() is None
