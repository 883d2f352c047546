"""The webhook scripts: webhooks become due and are claimed, postponed and completed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, PLENTY, claim, finish, reap_until, request, status_of
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.webhooks import WebhookQueue

URL = "https://receiver.example/hook"
VISIBLE_S = 60.0
#: A claimed webhook becomes due again before the reply of the claim arrives.
AT_ONCE_S = 0.0


@pytest.fixture
def webhooks(redis: Redis) -> WebhookQueue:
    return WebhookQueue(redis, MODEL)


def submit(queue: RedisQueue, *ids: str, webhook: str | None = URL, deadline_s: float | None = None) -> None:
    submissions = [replace(request(id, deadline_s=deadline_s), webhook=webhook) for id in ids]
    queue.submit(submissions, flow="acme:normal", weight=4.0, max_depth=PLENTY, max_bytes=PLENTY)


def claim_due(
    webhooks: WebhookQueue, *, visibility_s: float = VISIBLE_S, count: int = 100
) -> list[tuple[str, str, int]]:
    return [(webhook.id, webhook.url, webhook.tries) for webhook in webhooks.claim(count, visibility_s=visibility_s)]


def webhook_keys(redis: Redis) -> set[bytes]:
    return {key for key in redis.keys("*") if b"webhook" in key}


def test_no_webhook_is_due_before_the_request_finishes(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    assert claim_due(webhooks) == []
    requests = claim(queue)
    assert claim_due(webhooks) == []
    finish(queue, requests)
    assert claim_due(webhooks) == [("a", URL, 1)]


def test_a_canceled_request_has_a_due_webhook(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    queue.cancel("a")
    assert claim_due(webhooks) == [("a", URL, 1)]


def test_an_expired_request_has_a_due_webhook(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a", deadline_s=1e-6)
    reap_until(queue, lambda: status_of(queue, "a") == "expired")
    assert claim_due(webhooks) == [("a", URL, 1)]


def test_a_dead_letter_has_a_due_webhook(redis: Redis, webhooks: WebhookQueue) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    submit(queue, "a")
    claim(queue, lease_s=NO_LEASE_S)
    reap_until(queue, lambda: status_of(queue, "a") == "failed")
    assert claim_due(webhooks) == [("a", URL, 1)]


def test_a_request_without_a_webhook_has_no_due_webhook(
    redis: Redis, queue: RedisQueue, webhooks: WebhookQueue
) -> None:
    submit(queue, "a", webhook=None)
    finish(queue, claim(queue))
    assert claim_due(webhooks) == []
    assert webhook_keys(redis) == set()


def test_a_claimed_webhook_is_not_claimed_by_another_sender(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, *"abc")
    finish(queue, claim(queue))
    first, rest = claim_due(webhooks, count=2), claim_due(webhooks)
    assert sorted(id for id, _, _ in first + rest) == list("abc")
    assert claim_due(webhooks) == []


def test_a_claimed_webhook_that_is_not_completed_becomes_due_again(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    assert claim_due(webhooks, visibility_s=AT_ONCE_S) == [("a", URL, 1)]
    assert claim_due(webhooks, visibility_s=AT_ONCE_S) == [("a", URL, 2)]


def test_a_completed_webhook_leaves_no_keys(redis: Redis, queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    claim_due(webhooks, visibility_s=AT_ONCE_S)
    assert webhooks.done("a")
    assert claim_due(webhooks) == []
    assert webhook_keys(redis) == set()
    assert not webhooks.done("a")


def test_a_postponed_webhook_is_not_due(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    claim_due(webhooks, visibility_s=AT_ONCE_S)
    assert webhooks.postpone("a", 60.0, tries=1)
    assert claim_due(webhooks) == []


def test_postponing_sets_the_number_of_tries(queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    claim_due(webhooks)
    assert webhooks.postpone("a", 0.0, tries=0)
    assert claim_due(webhooks) == [("a", URL, 1)]


def test_a_completed_webhook_cannot_be_postponed(redis: Redis, queue: RedisQueue, webhooks: WebhookQueue) -> None:
    submit(queue, "a")
    finish(queue, claim(queue))
    claim_due(webhooks, visibility_s=AT_ONCE_S)
    webhooks.done("a")
    assert not webhooks.postpone("a", 0.0, tries=1)
    assert claim_due(webhooks) == []
    assert webhook_keys(redis) == set()


def test_a_full_redis_still_lets_webhooks_be_claimed_and_completed(real_redis: Redis) -> None:
    queue, webhooks = RedisQueue(real_redis, MODEL), WebhookQueue(real_redis, MODEL)
    submit(queue, "a", "b")
    requests = claim(queue)
    real_redis.config_set("maxmemory", 1)
    try:
        finish(queue, requests)
        assert sorted(claim_due(webhooks)) == [("a", URL, 1), ("b", URL, 1)]
        assert webhooks.postpone("a", 0.0, tries=1)
        assert claim_due(webhooks) == [("a", URL, 2)]
        assert webhooks.done("a")
        assert webhooks.done("b")
    finally:
        real_redis.config_set("maxmemory", 0)
    assert webhook_keys(real_redis) == set()
