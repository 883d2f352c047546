"""The webhook of a request becomes due when the request finishes, with every script that finishes requests."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, finish, reap_until, request, status_of
from windrow.scheduler.queue import RedisQueue

URL = "https://example.com/hook"


def due(redis: Redis) -> dict[bytes, float]:
    return dict(redis.zrange(f"windrow:{MODEL}:webhooks", 0, -1, withscores=True))


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, MODEL, max_attempts=1)


def submit(queue: RedisQueue, id: str, webhook: str | None = URL, deadline_s: float | None = None) -> None:
    queue.submit(
        [request(id, webhook=webhook, deadline_s=deadline_s)],
        flow="acme:normal", weight=1, max_depth=100, max_bytes=1 << 20,
    )  # fmt: skip


def test_no_webhook_is_due_before_the_finish(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    claim(queue)
    assert due(redis) == {}


def test_every_final_state_makes_the_webhook_due_once(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "done")
    finish(queue, claim(queue))
    submit(queue, "canceled")
    queue.cancel("canceled")
    submit(queue, "dead")
    claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    submit(queue, "late", deadline_s=1e-6)
    reap_until(queue, lambda: status_of(queue, "late") == "expired")
    submit(queue, "no-webhook", webhook=None)
    finish(queue, claim(queue))
    now_us = redis.time()[0] * 1e6
    assert set(due(redis)) == {b"done", b"canceled", b"dead", b"late"}
    assert all(now_us - 60e6 < at_us < now_us + 2e6 for at_us in due(redis).values())
    assert redis.hgetall(f"windrow:{MODEL}:webhook_urls") == dict.fromkeys(due(redis), URL.encode())
