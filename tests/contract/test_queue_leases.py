"""Leases are renewed, released, or expire and are reaped; after the last attempt a request is a dead letter."""

from redis import Redis

from tests.support.queue_calls import (
    LEASE_S,
    MODEL,
    NO_LEASE_S,
    claim,
    finish,
    held,
    ids_of,
    reap_until,
    submit,
)
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.queue import DeadLetters, RedisQueue, finished_channel, result_key

SHORT_S = 0.02


def waits(queue: RedisQueue, count: int) -> bool:
    return queue.depth().waiting == count


def test_a_valid_lease_is_not_reaped(queue: RedisQueue) -> None:
    submit(queue, "a")
    claim(queue)
    assert queue.reap() == 0
    assert claim(queue) == []


def test_a_request_whose_lease_expired_is_requeued_as_its_next_attempt(queue: RedisQueue) -> None:
    submit(queue, "a")
    claim(queue, lease_s=SHORT_S)
    assert reap_until(queue, lambda: waits(queue, 1)) == 1
    (again,) = claim(queue)
    assert (again.id, again.attempt) == ("a", 2)
    assert queue.depth().counts["redelivered"] == 1


def test_a_requeued_request_keeps_its_payload_flow_and_submit_time(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=600)
    (first,) = claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    (again,) = claim(queue)
    assert (again.payload, again.flow, again.created_s, again.deadline_s) == (
        first.payload,
        first.flow,
        first.created_s,
        first.deadline_s,
    )
    assert again.token != first.token


def test_a_requeued_request_is_first_even_before_higher_priorities(queue: RedisQueue) -> None:
    submit(queue, "low", priority="low", cost=1000)
    claim(queue, lease_s=NO_LEASE_S)
    submit(queue, "high", priority="high")
    queue.reap()
    assert ids_of(claim(queue)) == ["low", "high"]


def test_a_renewed_lease_expires_later(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    (a,), (b,) = claim(queue, 1, lease_s=NO_LEASE_S), claim(queue, 1, lease_s=NO_LEASE_S)
    assert queue.renew(held([a]), lease_s=LEASE_S) == []
    assert queue.reap() == 1
    assert ids_of(claim(queue)) == ["b"]
    assert finish(queue, [a, b]) == [True, False]


def test_a_claim_has_one_lease_so_renewing_one_of_its_requests_renews_all(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    a, _ = claim(queue, lease_s=NO_LEASE_S)
    queue.renew(held([a]), lease_s=LEASE_S)
    assert queue.reap() == 0


def test_a_claim_without_remaining_requests_has_no_lease(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, *"abcd")
    a, _, c, d = claim(queue)
    finish(queue, [a])
    queue.cancel("b")
    queue.release(held([c]))
    assert redis.zcard(f"windrow:{MODEL}:leases") == 1
    finish(queue, [d])
    for name in ("leases", "claims", "held"):
        assert not redis.exists(f"windrow:{MODEL}:{name}"), name


def test_renewing_returns_the_ids_whose_lease_was_lost(queue: RedisQueue) -> None:
    submit(queue, "ended", "canceled", "reaped", "mine")
    requests = claim(queue)
    tokens = held(requests)
    finish(queue, requests[:1])
    queue.cancel("canceled")
    queue.release({"reaped": tokens["reaped"]})
    assert queue.renew({**tokens, "never": "token"}, lease_s=LEASE_S) == ["ended", "canceled", "reaped", "never"]


def test_renewing_with_a_lost_token_does_not_affect_the_new_claim(queue: RedisQueue) -> None:
    submit(queue, "a")
    first = claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    second = claim(queue, lease_s=NO_LEASE_S)
    assert queue.renew(held(first), lease_s=LEASE_S) == ["a"]
    assert queue.reap() == 1
    assert finish(queue, second) == [False]


def test_renewing_no_requests_has_no_effect(queue: RedisQueue) -> None:
    assert queue.renew({}, lease_s=1) == []


def test_the_finish_of_a_worker_that_lost_its_lease_is_refused(queue: RedisQueue) -> None:
    submit(queue, "a")
    first = claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    second = claim(queue)
    assert finish(queue, first, Done("late")) == [False]
    assert finish(queue, second, Done("in time")) == [True]
    found = queue.lookup("a")
    assert found is not None
    assert found.output == "in time"
    assert queue.depth().counts["late"] == 1


def test_a_finish_between_the_expiry_and_the_reap_of_its_lease_is_kept(queue: RedisQueue) -> None:
    submit(queue, "a")
    requests = claim(queue, lease_s=NO_LEASE_S)
    assert finish(queue, requests) == [True]
    assert queue.reap() == 0


def test_a_request_fails_after_its_last_attempt_and_becomes_a_dead_letter(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=3)
    submit(queue, "poison")
    for attempt in (1, 2, 3):
        assert [claimed.attempt for claimed in claim(queue, lease_s=NO_LEASE_S, alone=True)] == [attempt]
        assert queue.reap() == 1
    assert claim(queue) == []
    found = queue.lookup("poison")
    assert found is not None
    assert found.status == "failed"
    assert found.error == {
        "code": "attempts_exhausted",
        "detail": "the worker died or lost its lease on each of 3 attempts",
    }
    (letter,) = DeadLetters(redis, MODEL).newest()
    assert (letter.id, letter.tenant, letter.priority, letter.call()["input"]) == ("poison", "acme", "normal", "hay")
    assert letter.error == found.error
    assert found.completed_s == letter.died_s
    assert found.created_s == letter.created_s
    assert queue.depth().payload_bytes == 0
    assert queue.depth().counts == {"submitted": 1, "redelivered": 2, "failed": 1, "dead_letters": 1}


def test_a_dead_letter_is_published_like_any_other_result(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    submit(queue, "a")
    claim(queue, lease_s=NO_LEASE_S)
    pubsub = redis.pubsub()
    pubsub.subscribe(result_key("a"), finished_channel(MODEL))
    queue.reap()
    received = []
    while len(received) < 2:
        message = pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
        if message is not None:
            received.append(message["channel"].decode())
    assert received == [result_key("a"), finished_channel(MODEL)]


def test_only_the_newest_dead_letters_are_kept(redis: Redis) -> None:
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    for start in range(0, 1500, 500):
        submit(queue, *(f"{number}" for number in range(start, start + 500)))
        claim(queue, lease_s=NO_LEASE_S)
        assert queue.reap() == 500
    dead = [letter.id for letter in DeadLetters(redis, MODEL).newest(2000)]
    assert len(dead) == 1000
    assert sorted(map(int, dead)) == list(range(500, 1500))
    assert redis.hlen(f"windrow:{MODEL}:dead_letters") == 1000


def test_more_lost_requests_than_one_script_call_handles_are_all_reaped(queue: RedisQueue) -> None:
    submit(queue, *(f"{number}" for number in range(1000)))
    claim(queue, lease_s=NO_LEASE_S)
    assert reap_until(queue, lambda: waits(queue, 1000)) == 1000
    assert len(claim(queue)) == 1000


def test_two_reapers_requeue_a_request_once(redis: Redis) -> None:
    first, second = RedisQueue(redis, MODEL), RedisQueue(redis, MODEL)
    submit(first, "a")
    claim(first, lease_s=NO_LEASE_S)
    assert [first.reap(), second.reap()] == [1, 0]
    assert [request.attempt for request in claim(first)] == [2]
