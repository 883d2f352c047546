"""Claims take requests in fair order, and each request has only one worker."""

import threading
import time
from collections import Counter
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError, TimeoutError

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, finish, held, ids_of, request, status_of, submit
from windrow.scheduler.queue import RedisQueue, redis_queue


def test_a_claim_takes_at_most_count_requests(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c")
    assert ids_of(claim(queue, 2)) == ["a", "b"]
    assert ids_of(claim(queue, 2)) == ["c"]
    assert claim(queue, 2) == []


def test_an_empty_claim_has_the_redis_time(queue: RedisQueue, redis: Redis) -> None:
    before_s = redis.time()[0]
    assert queue.claim(1, lease_s=1).now_s >= before_s


def test_the_lease_of_a_claim_expires_lease_s_after_the_redis_time(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    claimed = queue.claim(1, lease_s=60)
    now_s = claimed.now_s
    assert redis.zscore(f"windrow:{MODEL}:leases", claimed.requests[0].token) == pytest.approx(
        (now_s + 60) * 1e6, abs=1
    )


def test_each_claim_has_its_own_token(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    assert claim(queue, 1)[0].token != claim(queue, 1)[0].token


def test_a_claimed_request_has_its_submit_time_and_its_deadline(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=30)
    submit(queue, "b")
    with_deadline, without = claim(queue)
    assert with_deadline.deadline_s == pytest.approx(with_deadline.created_s + 30, abs=1e-5)
    assert without.deadline_s is None


def test_a_claim_of_some_priorities_ends_before_the_first_of_another(queue: RedisQueue) -> None:
    submit(queue, "low", priority="low", cost=100)
    assert claim(queue, priorities=["high", "normal"]) == []
    submit(queue, "high", "higher", priority="high", cost=100)
    submit(queue, "normal", priority="normal", cost=500)
    assert ids_of(claim(queue, 1, priorities=["high", "normal"])) == ["high"]
    assert ids_of(claim(queue, priorities=["high", "normal"])) == ["higher"]  # low comes before normal
    assert claim(queue, priorities=["high", "normal"]) == []
    assert ids_of(claim(queue)) == ["low", "normal"]


def test_requests_not_taken_by_a_claim_of_some_priorities_keep_their_positions(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c", priority="low")
    submit(queue, "urgent", tenant="other", priority="high", cost=100)
    assert claim(queue, 2, priorities=["high"]) == []
    assert ids_of(claim(queue)) == ["a", "b", "c", "urgent"]


def test_a_claim_takes_no_requests_of_other_models(redis: Redis) -> None:
    first, second = RedisQueue(redis, "first"), RedisQueue(redis, "second")
    submit(first, "a")
    assert claim(second) == []
    assert ids_of(claim(first)) == ["a"]


def test_backlogged_priorities_share_a_thousand_claims_by_their_weights(queue: RedisQueue) -> None:
    for priority in ("low", "normal", "high"):
        submit(queue, *(f"{priority}-{number}" for number in range(1000)), priority=priority)
    served = Counter(id.partition("-")[0] for id in ids_of(claim(queue, 1000)))
    assert served["high"] == pytest.approx(762, abs=2)  # 1,000 * 16 / 21
    assert served["normal"] == pytest.approx(190, abs=2)  # 1,000 * 4 / 21
    assert served["low"] == pytest.approx(48, abs=2)  # 1,000 * 1 / 21


def test_two_backlogged_tenants_of_one_priority_get_equal_shares(queue: RedisQueue) -> None:
    submit(queue, *(f"x{number}" for number in range(1000)), tenant="x")
    submit(queue, *(f"y{number}" for number in range(1000)), tenant="y")
    served = Counter(id[0] for id in ids_of(claim(queue, 1000)))
    assert served == {"x": pytest.approx(500, abs=1), "y": pytest.approx(500, abs=1)}


def test_a_tenant_of_long_texts_gets_no_more_tokens_than_one_of_short_ones(queue: RedisQueue) -> None:
    submit(queue, *(f"long-{number}" for number in range(500)), tenant="x", cost=10)
    submit(queue, *(f"short-{number}" for number in range(500)), tenant="y", cost=1)
    served = Counter(id.partition("-")[0] for id in ids_of(claim(queue, 440)))
    assert served == {"long": pytest.approx(40, abs=1), "short": pytest.approx(400, abs=1)}


def test_a_late_low_priority_request_is_claimed_during_a_flood_of_high_priority_requests(queue: RedisQueue) -> None:
    submit(queue, *(f"high-{number}" for number in range(500)), priority="high")
    claim(queue, 100)
    submit(queue, "low", priority="low")
    for number in range(10):
        submit(queue, *(f"more-{number}-{other}" for other in range(50)), priority="high")
    # One token of weight 1 counts as much as 16 tokens of weight 16.
    assert "low" in ids_of(claim(queue, 17))


def test_a_new_tenant_does_not_wait_for_the_backlog_of_another(queue: RedisQueue) -> None:
    submit(queue, *(f"x{number}" for number in range(1000)), tenant="x")
    claim(queue, 10)
    submit(queue, "y", tenant="y")
    assert "y" in ids_of(claim(queue, 2))


def test_the_tags_of_flows_are_deleted_once_all_requests_are_claimed(queue: RedisQueue, redis: Redis) -> None:
    for tenant in "xyz":
        submit(queue, *(f"{tenant}{number}" for number in range(20)), tenant=tenant, cost=ord(tenant))
    while claim(queue, 7):
        pass
    assert not redis.exists(f"windrow:{MODEL}:flows")


def test_the_tags_of_flows_are_deleted_when_the_remaining_requests_are_canceled(
    queue: RedisQueue, redis: Redis
) -> None:
    submit(queue, "a", tenant="x")
    submit(queue, "b", tenant="y", cost=100)
    finish(queue, claim(queue, 1))
    assert queue.cancel("b")
    assert not redis.exists(f"windrow:{MODEL}:flows")


def wake_ups(redis: Redis) -> int:
    """Return how many blocked workers would wake up at once."""
    return redis.llen(f"windrow:{MODEL}:wake") + redis.llen(f"windrow:{MODEL}:backlog")


def test_a_blocking_claim_returns_when_there_are_requests(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    assert wake_ups(redis) == 1
    assert ids_of(claim(queue, wait_s=60)) == ["a"]
    assert wake_ups(redis) == 0


def test_a_blocking_claim_returns_without_requests_after_its_timeout(queue: RedisQueue) -> None:
    assert claim(queue, wait_s=0.01) == []


def test_a_blocking_claim_gets_requests_submitted_meanwhile(real_url: str) -> None:
    with Redis.from_url(real_url) as client:
        queue = RedisQueue(client, MODEL)
        claimed: list[str] = []
        waiter = threading.Thread(target=lambda: claimed.extend(ids_of(claim(queue, wait_s=60))))
        waiter.start()
        while not client.info("clients")["blocked_clients"]:
            pass
        submit(queue, "a", "b")
        waiter.join(30)
        assert claimed == ["a", "b"]


def test_a_blocking_claim_reloads_scripts_after_a_script_flush(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    redis.script_flush()
    assert ids_of(claim(queue, wait_s=60)) == ["a"]


def test_a_claim_that_leaves_requests_in_the_queue_wakes_the_next_worker(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b")
    claim(queue, 1, wait_s=60)
    assert wake_ups(redis) == 1


@pytest.mark.parametrize("requeued_by", ["release", "reap"])
def test_a_requeued_request_wakes_a_worker(queue: RedisQueue, redis: Redis, requeued_by: str) -> None:
    submit(queue, "a")
    requests = claim(queue, lease_s=NO_LEASE_S, wait_s=60)
    if requeued_by == "release":
        queue.release(held(requests))
    else:
        queue.reap()
    assert wake_ups(redis) == 1


def test_a_spare_worker_waits_until_a_claim_leaves_requests_in_the_queue(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b")
    assert redis.llen(f"windrow:{MODEL}:backlog") == 0
    claim(queue, 1)
    assert redis.llen(f"windrow:{MODEL}:backlog") == 1
    assert ids_of(claim(queue, wait_s=60, is_spare=True)) == ["b"]
    assert redis.llen(f"windrow:{MODEL}:backlog") == 0


def test_a_spare_worker_claims_if_there_is_no_other_worker(queue: RedisQueue) -> None:
    submit(queue, "a")
    assert ids_of(claim(queue, wait_s=0.01, is_spare=True)) == ["a"]


def test_a_patient_spare_worker_leaves_a_small_backlog_to_other_workers(queue: RedisQueue, redis: Redis) -> None:
    patient: dict[str, Any] = {"is_spare": True, "patience_s": 60, "enough": 2}
    submit(queue, "a")
    redis.delete(f"windrow:{MODEL}:wake")
    assert claim(queue, **patient) == []
    assert queue.depth().waiting == 1
    assert redis.llen(f"windrow:{MODEL}:wake") == 1  # wakes a worker that is not spare
    assert redis.llen(f"windrow:{MODEL}:backlog") == 0  # does not wake the spare worker again
    submit(queue, "b", "c")
    assert ids_of(claim(queue, 2, **patient)) == ["a", "b"]
    assert ids_of(claim(queue, 2)) == ["c"]


def test_a_patient_spare_worker_claims_requests_that_waited_too_long(queue: RedisQueue) -> None:
    submit(queue, "a")
    assert ids_of(claim(queue, is_spare=True, patience_s=1e-6, enough=2)) == ["a"]


def test_patience_is_measured_from_the_oldest_request_even_if_it_is_last(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "old", cost=1000, priority="low")
    time.sleep(0.3)
    submit(queue, "new", tenant="another")
    assert claim(queue, is_spare=True, patience_s=60, enough=3) == []
    assert ids_of(claim(queue, is_spare=True, patience_s=0.3, enough=3)) == ["new", "old"]


def test_a_wake_up_after_another_worker_claimed_returns_no_requests(queue: RedisQueue) -> None:
    submit(queue, "a")
    claim(queue)
    assert claim(queue, wait_s=60) == []


def test_at_most_one_wake_up_is_pending(queue: RedisQueue, redis: Redis) -> None:
    for number in range(20):
        submit(queue, f"{number}")
    assert wake_ups(redis) == 1


def test_concurrent_workers_never_get_the_same_request(real_url: str) -> None:
    ids = [f"{number}" for number in range(2000)]
    with Redis.from_url(real_url) as client:
        queue = RedisQueue(client, MODEL)
        for start in range(0, len(ids), 500):
            submit(queue, *ids[start : start + 500])
        claimed: list[str] = []
        start_together = threading.Barrier(4)

        def work() -> None:
            start_together.wait()
            while requests := claim(queue, 7):
                claimed.extend(ids_of(requests))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claimed) == sorted(ids)
        assert queue.depth().running == len(ids)


def test_concurrent_submits_and_finishes_lose_and_duplicate_no_request(real_url: str) -> None:
    ids = [f"{number}" for number in range(1000)]
    finished: list[bool] = []
    with Redis.from_url(real_url) as client:
        queue = RedisQueue(client, MODEL)

        def feed() -> None:
            for start in range(0, len(ids), 20):
                submit(queue, *ids[start : start + 20])

        def work() -> None:
            while len(finished) < len(ids):
                finished.extend(finish(queue, claim(queue, 16, wait_s=0.05)))

        threads = [threading.Thread(target=target) for target in (feed, work, work, work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert finished == [True] * len(ids)
        assert {status_of(queue, id) for id in ids} == {"succeeded"}


def test_scripts_are_reloaded_after_a_script_flush(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    redis.script_flush()
    requests = claim(queue)
    redis.script_flush()
    assert finish(queue, requests) == [True]


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
