"""Claims whose reply was lost, and claims from a full Redis."""

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError, TimeoutError

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, finish, ids_of, request, submit
from windrow.scheduler.queue import RedisQueue, redis_queue


def lose_the_next_reply(queue: RedisQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Redis run the next claim and lose its reply."""

    def run_and_lose(*arguments: Any) -> Any:
        monkeypatch.undo()
        queue._calls.run(*arguments)
        raise TimeoutError("no reply")

    monkeypatch.setattr(queue._calls, "run", run_and_lose)


def test_the_next_claim_gets_the_requests_of_a_claim_whose_reply_was_lost(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(queue, *"abcd")
    lose_the_next_reply(queue, monkeypatch)
    with pytest.raises(TimeoutError):
        claim(queue, 3)
    again = claim(queue, 3)
    assert ids_of(again) == list("abc")
    assert {request.attempt for request in again} == {1}
    assert finish(queue, again) == [True] * 3
    assert ids_of(claim(queue, 3)) == ["d"]


def test_the_next_claim_gets_the_requests_of_a_claim_that_failed_to_read_payloads(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(queue, *"abcdefgh")

    def lose(ids: Any) -> Any:
        monkeypatch.undo()
        raise TimeoutError("no reply")

    monkeypatch.setattr(queue, "_read", lose)
    with pytest.raises(TimeoutError):
        claim(queue, 6)
    again = claim(queue, 6)
    assert ids_of(again) == list("abcdef")
    assert finish(queue, again) == [True] * 6


@pytest.mark.parametrize("count", [1, 4, 5, 60])
def test_few_and_many_requests_are_claimed_with_their_payloads(queue: RedisQueue, count: int) -> None:
    ids = [f"r{number:02}" for number in range(count)]
    queue.submit(
        [request(id, input=f"text of {id}") for id in ids], flow="acme:low", weight=1.0, max_depth=99, max_bytes=1 << 20
    )
    assert {claimed.id: claimed.call()["input"] for claimed in claim(queue)} == {id: f"text of {id}" for id in ids}


def test_a_request_canceled_before_its_payload_is_read_is_not_returned(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(queue, *"abcdef")
    read = queue._read

    def cancel_and_read(ids: Any) -> Any:
        queue.cancel("b")
        return read(ids)

    monkeypatch.setattr(queue, "_read", cancel_and_read)
    requests = claim(queue)
    assert ids_of(requests) == list("acdef")
    assert finish(queue, requests) == [True] * 5


def test_a_request_of_a_lost_reply_that_was_canceled_is_not_claimed_again(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(queue, *"ab")
    lose_the_next_reply(queue, monkeypatch)
    with pytest.raises(TimeoutError):
        claim(queue, 2)
    queue.cancel("a")
    assert ids_of(claim(queue, 2)) == ["b"]


@pytest.mark.parametrize("count", [3, 12])
def test_a_request_of_a_lost_reply_that_another_worker_claimed_is_not_claimed_again(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    first, second = RedisQueue(redis, MODEL), RedisQueue(redis, MODEL)
    ids = [f"r{number:02}" for number in range(count)]
    submit(first, *ids)
    lose_the_next_reply(first, monkeypatch)
    with pytest.raises(TimeoutError):
        first.claim(count, lease_s=NO_LEASE_S)
    monkeypatch.setattr(redis_queue, "MAX_REAPED_PER_CALL", count - 1)
    assert second.reap() == count - 1
    claimed_by_second = claim(second, count)
    claimed_by_first = claim(first, count)
    assert (ids_of(claimed_by_second), ids_of(claimed_by_first)) == (ids[:-1], ids[-1:])
    assert finish(first, claimed_by_first) == [True]
    assert finish(second, claimed_by_second) == [True] * (count - 1)
    assert first.depth().running == 0


def test_a_full_redis_still_repeats_lost_claims_and_wakes_workers(
    real_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = RedisQueue(real_redis, MODEL)
    submit(queue, "a", "b", priority="low")
    lose_the_next_reply(queue, monkeypatch)
    with pytest.raises(TimeoutError):
        claim(queue, 1)
    real_redis.delete(f"windrow:{MODEL}:backlog")
    real_redis.config_set("maxmemory-policy", "noeviction")
    real_redis.config_set("maxmemory", 1)
    try:
        assert ids_of(claim(queue, 1)) == ["a"]
        assert claim(queue, priorities=["high"]) == []
        assert real_redis.llen(f"windrow:{MODEL}:backlog") == 1
    finally:
        real_redis.config_set("maxmemory", 0)


def test_an_error_of_the_blocking_wait_is_raised_and_loses_no_request(queue: RedisQueue, real_url: str) -> None:
    with Redis.from_url(real_url) as admin:
        admin.acl_setuser(
            "no-blpop", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-blpop"]
        )
        with Redis.from_url(real_url, username="no-blpop") as client:
            restricted = RedisQueue(client, MODEL)
            submit(restricted, "a")
            for _ in range(2):
                with pytest.raises(RedisError, match=r"(?i)permission"):
                    claim(restricted, wait_s=1)
            assert ids_of(claim(restricted)) == ["a"]
        admin.acl_deluser("no-blpop")
