"""ended -> due -> being told -> nothing: what the scripts behind webhooks promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, PLENTY, claim, finish, reap_until, request, status_of
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.webhooks import WebhookQueue

URL = "https://receiver.example/hook"
VISIBLE_S = 60.0
#: Visible again by the time the reply arrives.
AT_ONCE_S = 0.0


@pytest.fixture
def outbox(redis: Redis) -> WebhookQueue:
    return WebhookQueue(redis, MODEL)


def submit(queue: RedisQueue, *ids: str, webhook: str | None = URL, deadline_s: float | None = None) -> None:
    submissions = [replace(request(id, deadline_s=deadline_s), webhook=webhook) for id in ids]
    queue.submit(submissions, flow="acme:normal", weight=4.0, max_depth=PLENTY, max_bytes=PLENTY)


def due(outbox: WebhookQueue, *, visibility_s: float = VISIBLE_S, count: int = 100) -> list[tuple[str, str, int]]:
    return [(one.id, one.url, one.tries) for one in outbox.claim(count, visibility_s=visibility_s)]


def webhook_keys(redis: Redis) -> set[bytes]:
    return {key for key in redis.keys("*") if b"webhook" in key}


def test_nothing_is_due_before_the_request_has_ended(queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a")
    assert due(outbox) == []
    held = claim(queue)
    assert due(outbox) == []
    finish(queue, held)
    assert due(outbox) == [("a", URL, 1)]


def test_a_canceled_request_is_told_too(queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a")
    queue.cancel("a")
    assert due(outbox) == [("a", URL, 1)]


def test_a_request_past_its_deadline_is_told_too(queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a", deadline_s=1e-6)
    reap_until(queue, lambda: status_of(queue, "a") == "expired")
    assert due(outbox) == [("a", URL, 1)]


def test_a_request_out_of_attempts_is_told_too(redis: Redis, outbox: WebhookQueue) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    submit(queue, "a")
    claim(queue, lease_s=NO_LEASE_S)
    reap_until(queue, lambda: status_of(queue, "a") == "failed")
    assert due(outbox) == [("a", URL, 1)]


def test_a_request_without_a_webhook_is_never_due(redis: Redis, queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a", webhook=None)
    finish(queue, claim(queue))
    assert due(outbox) == []
    assert webhook_keys(redis) == set()


def test_what_one_is_telling_nobody_else_is_given(queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, *"abc")
    finish(queue, claim(queue))
    first, rest = due(outbox, count=2), due(outbox)
    assert sorted(id for id, _, _ in first + rest) == list("abc")
    assert due(outbox) == []


def test_what_was_claimed_and_never_struck_off_comes_again_with_its_tries_counted(
    queue: RedisQueue, outbox: WebhookQueue
) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    assert due(outbox, visibility_s=AT_ONCE_S) == [("a", URL, 1)]
    assert due(outbox, visibility_s=AT_ONCE_S) == [("a", URL, 2)]


def test_what_is_done_leaves_nothing_in_redis(redis: Redis, queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    due(outbox, visibility_s=AT_ONCE_S)
    assert outbox.done("a")
    assert due(outbox) == []
    assert webhook_keys(redis) == set()
    assert not outbox.done("a")


def test_later_is_not_now(queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    due(outbox, visibility_s=AT_ONCE_S)
    assert outbox.postpone("a", 60.0, tries=1)
    assert due(outbox) == []


def test_later_says_how_many_tries_count(queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    due(outbox)
    assert outbox.postpone("a", 0.0, tries=0)
    assert due(outbox) == [("a", URL, 1)]


def test_what_another_was_done_with_does_not_come_back(redis: Redis, queue: RedisQueue, outbox: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    due(outbox, visibility_s=AT_ONCE_S)
    outbox.done("a")
    assert not outbox.postpone("a", 0.0, tries=1)
    assert due(outbox) == []
    assert webhook_keys(redis) == set()


def test_a_full_redis_still_lets_webhooks_be_told(real_redis: Redis) -> None:
    queue, outbox = RedisQueue(real_redis, MODEL), WebhookQueue(real_redis, MODEL)
    submit(queue, "a", "b")
    held = claim(queue)
    real_redis.config_set("maxmemory", 1)
    try:
        finish(queue, held)
        assert sorted(due(outbox)) == [("a", URL, 1), ("b", URL, 1)]
        assert outbox.postpone("a", 0.0, tries=1)
        assert due(outbox) == [("a", URL, 2)]
        assert outbox.done("a")
        assert outbox.done("b")
    finally:
        real_redis.config_set("maxmemory", 0)
    assert webhook_keys(real_redis) == set()
